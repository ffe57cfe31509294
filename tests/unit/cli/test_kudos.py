"""Amounts of kudos as arguments."""

import pytest

from callboard_cli.failures import CommandError
from callboard_cli.kudos import parse_amount

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "amount"), [("1", 1000), ("0.001", 1), ("12.5", 12_500), ("999999999999", 999999999999000)]
)
def test_amount_is_read_in_thousandths(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text", ["0", "0.000", "-1", "1.0001", "nan", "inf", "1e3", "", " 1", "1,5", "1" * 13, "\u0663"]
)
def test_malformed_amount_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        parse_amount(text)
