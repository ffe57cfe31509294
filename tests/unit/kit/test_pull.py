"""What the subject says at which a pulled message is answered."""

from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from callboard_kit.pull import place_of, stored_at

pytestmark = pytest.mark.unit


SUBJECTS = pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.USAGE.settlement.1.22.33.1795800000123456789.4",
        "$JS.ACK._.hash.USAGE.settlement.1.22.33.1795800000123456789.4",
        "$JS.ACK.hub.hash.USAGE.settlement.1.22.33.1795800000123456789.4.random",
    ],
)


@SUBJECTS
def test_the_time_at_which_a_message_was_stored_is_the_one_that_the_client_reads(reply: str) -> None:
    message = Msg(cast("Any", None), reply=reply)
    assert stored_at(message) == pytest.approx(message.metadata.timestamp.timestamp(), abs=1e-5)


@SUBJECTS
def test_the_delivery_and_the_number_of_a_message_are_those_that_the_client_reads(reply: str) -> None:
    message = Msg(cast("Any", None), reply=reply)
    assert place_of(message) == (message.metadata.num_delivered, message.metadata.sequence.stream) == (1, 22)
