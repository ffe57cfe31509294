import pytest

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.pools import ChatPoolSection, ChatSection
from callboard_contracts.streams import consumers, streams

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("bad", ["", "a.b", "a b", "*", ">", "ü", "x" * 65])
def test_token_refuses_what_would_break_a_subject(bad: str) -> None:
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.token(bad)
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.result(bad)


def test_filter_is_the_only_wildcard() -> None:
    assert subjects.job("chat", "main", "live", "*") == "job.chat.main.live.*"
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.job("chat", "main", "live", ">")


def test_class_of_a_job_is_read_from_its_subject() -> None:
    for job_class in ("live", "batch"):
        assert subjects.job_class_of(subjects.job("tts", "main", job_class, "t")) == job_class
    assert subjects.job_class_of("nonsense") == "live"


def test_each_pool_has_a_consumer_for_each_class() -> None:
    config = Config(chat=ChatSection(pools={"main": ChatPoolSection(backend="fake")}))
    found = {spec.name: spec.filter_subject for spec in consumers(config)}
    assert found["chat-main-live"] == "job.chat.main.live.*"
    assert found["chat-main-batch"] == "job.chat.main.batch.*"


def test_control_and_quota_requests_are_in_no_stream() -> None:
    captured = [subject for spec in streams(Config()) for subject in spec.subjects]
    assert not [subject for subject in captured if subject.startswith(("ctl", "quota", ">"))]
