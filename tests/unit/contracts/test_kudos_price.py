import pytest

from callboard_contracts.kudos import reward_id, uptime_id
from callboard_contracts.kudos_price import (
    MAX_REWARD,
    KudosSection,
    context_factor,
    counted_tokens,
    fees,
    is_validated,
    model_billions,
    needs_upfront,
    price,
    reward,
    uptime_period,
    uptime_reward,
)
from callboard_contracts.subjects import is_token

pytestmark = pytest.mark.unit

KUDOS = KudosSection()


@pytest.mark.parametrize(("tokens", "factor"), [(1024, 2.2), (2048, 3.4), (4096, 6.04), (1_048_576, 30.0), (0, 1.2)])
def test_context_factor(tokens: int, factor: float) -> None:
    assert context_factor(KUDOS, tokens) == pytest.approx(factor, abs=0.001)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("koboldcpp/Llama-3.1-8B-Instruct", 8),
        ("aphrodite/mixtral-8x7b", 56),
        ("SmolLM2-135M", 0.135),
        ("qwen2.5:0.5b", 0.5),
        ("llama_70b_q4", 70),
        ("owl", None),
        ("gpt4base", None),
        ("v2-9999999b", None),
    ],
)
def test_size_of_a_model_by_its_name(name: str, billions: float | None) -> None:
    assert model_billions(KUDOS, name) == (None if billions is None else pytest.approx(billions))


def test_size_that_the_site_has_set_counts() -> None:
    assert model_billions(KudosSection(model_billions={"owl-7b": 3.0}), "owl-7b") == 3.0


def test_price_of_contracts_formula() -> None:
    assert price(KUDOS, max_length=40, context_tokens=1024, billions=None) == pytest.approx(11_440, abs=1)
    assert price(KUDOS, max_length=100, context_tokens=2048, billions=7.0) == pytest.approx(23_800, abs=1)
    bonus = (70 / 13) ** 0.2
    assert price(KUDOS, max_length=80, context_tokens=1024, billions=70) == pytest.approx(
        80 * bonus * 70 * 2.2 * 10, abs=1
    )


def test_reward_of_contracts_formula() -> None:
    assert reward(KUDOS, tokens=100, prompt_tokens=1024, billions=7.0) == pytest.approx(12_320, abs=1)
    assert reward(KUDOS, tokens=100, prompt_tokens=1024, billions=7.0, validated=False) == pytest.approx(3_696, abs=1)
    assert reward(KUDOS, tokens=100, prompt_tokens=1024, billions=None) == 2_200
    assert reward(KUDOS, tokens=0, prompt_tokens=1024, billions=7.0) == 0
    assert reward(KudosSection(reward_divisor=1e-6), tokens=4096, prompt_tokens=1024, billions=1e4) == MAX_REWARD


@pytest.mark.parametrize("billions", [0.1, 7.0, 13.0, 70.0, 405.0])
@pytest.mark.parametrize("length", [16, 80, 512, 4096])
def test_price_covers_the_reward(billions: float, length: int) -> None:
    for context in (80, 1024, 100_000):
        most = price(KUDOS, max_length=length, context_tokens=context, billions=billions)
        assert most >= reward(KUDOS, tokens=length, prompt_tokens=context, billions=billions)


def test_fees_are_for_each_text_and_once_for_the_request() -> None:
    assert fees(KUDOS, accepts=True) == 2000
    assert fees(KUDOS, accepts=False) == 1000


def test_tokens_are_counted_by_the_text_within_bounds() -> None:
    assert counted_tokens("", 80) == 20
    assert counted_tokens("x" * 200, 80) == 50
    assert counted_tokens("x" * 2000, 80) == 80
    assert counted_tokens("", 16) == 16


@pytest.mark.parametrize(
    ("length", "threads", "waiting", "slow_workers", "upfront"),
    [
        (512, 0, 0, True, False),
        (513, 100, 0, True, True),
        (16, 0, 0, False, True),
        (400, 0, 200, True, True),
        (256, 0, 100_000, True, False),
        (257, 0, 100_000, True, True),
        (400, 20, 200, True, False),
    ],
)
def test_upfront_rule(length: int, threads: int, waiting: int, slow_workers: bool, upfront: bool) -> None:
    found = needs_upfront(KUDOS, max_length=length, threads=threads, waiting=waiting, slow_workers=slow_workers)
    assert found is upfront


def test_uptime_reward_grows_with_what_is_offered() -> None:
    assert uptime_reward(KUDOS, context_tokens=1024, billions=7.0) == 40_000
    assert uptime_reward(KUDOS, context_tokens=4096, billions=14.0) == 170_000
    assert uptime_reward(KUDOS, context_tokens=1024, billions=None) == 40_000
    most = uptime_reward(KUDOS, context_tokens=32_768, billions=140)
    assert uptime_reward(KUDOS, context_tokens=1_048_576, billions=9_000) == most
    assert uptime_period(KUDOS, 1201.0) == 2


def test_backends_by_the_first_part_of_their_name() -> None:
    assert is_validated(KUDOS, "KoboldCppEmbedWorker:2:https://example.org")
    assert is_validated(KUDOS, "AI Horde Worker~aphrodite~kai:24:url")
    assert not is_validated(KUDOS, "unknown:0:unknown")


def test_transactions_of_volunteers_have_one_id_for_each_work() -> None:
    assert reward_id("abc") == "reward-abc"
    long = "x" * 64
    assert is_token(reward_id(long))
    assert reward_id(long) != reward_id("y" * 64)
    assert uptime_id("3f0c", 7) == "uptime-3f0c-7"
    assert is_token(uptime_id("5a1c4be0-5d7e-5f0f-9c54-2f3c2f0f7f11", 3_000_000))
