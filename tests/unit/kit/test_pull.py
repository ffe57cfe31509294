"""What the subject says at which a pulled message is answered."""

from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from callboard_kit.pull import delivery_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.USAGE.settlement.3.22.33.1795800000123456789.4",
        "$JS.ACK._.hash.USAGE.settlement.3.22.33.1795800000123456789.4",
        "$JS.ACK.hub.hash.USAGE.settlement.3.22.33.1795800000123456789.4.random",
    ],
)
def test_the_time_at_which_a_message_was_stored_is_the_one_that_the_client_reads(reply: str) -> None:
    message = Msg(cast("Any", None), reply=reply)
    delivery, stored_at = delivery_of(message)
    assert delivery == message.metadata.num_delivered
    assert stored_at == pytest.approx(message.metadata.timestamp.timestamp(), abs=1e-5)
