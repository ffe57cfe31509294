import pytest

from callboard_contracts.errors import CATALOGUE, CallboardError, ErrorCode, ErrorInfo

pytestmark = pytest.mark.unit


def test_every_code_has_its_entry() -> None:
    assert set(CATALOGUE) == set(ErrorCode)
    assert all(400 <= kind.status < 600 and kind.meaning.endswith(".") for kind in CATALOGUE.values())


def test_error_keeps_what_arrived_over_the_wire() -> None:
    info = ErrorInfo(code=ErrorCode.QUEUE_FULL, message="Too many are waiting.", retry_after_s=2)
    error = CallboardError.of(ErrorInfo.model_validate_json(info.model_dump_json()))
    assert error.info == info
    assert str(error) == "Too many are waiting."
    assert error.info.kind.retryable
