"""What work costs and earns in kudos, by the AI Horde's formulas; their constants are the site's table `[kudos]`.

All amounts are integers, in thousandths of a kudos. Sizes of models are in billions of parameters.
"""

import math
import re

from pydantic import Field

from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.section import Section

TOKENS_PER_STEP = 1024
MIN_COUNTED_TOKENS = 20
CHARACTERS_PER_TOKEN = 4
MAX_BILLIONS = 10_000.0
MAX_REWARD = 10_000_000 * KUDOS_SCALE
"""No work earns more; above what the formula gives for the longest reply of the largest model."""

_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", re.IGNORECASE)


class KudosSection(Section):
    """Whether requests cost kudos, and the constants of prices and rewards."""

    enabled: bool = False
    """Whether requests of the AI Horde's clients cost kudos, and work for them earns some. Left out, all are free."""
    model_billions: dict[str, float] = Field(default_factory=dict)
    """The size of models whose name does not tell it, in billions of parameters, by the name that clients use."""
    reference_billions: float = Field(default=13.0, gt=0)
    """The size that is reckoned with for the price of a model of unknown size; larger models have a bonus."""
    size_bonus_exponent: float = Field(default=0.2, ge=0, le=2)
    """How the bonus grows with the size above that."""
    context_base: float = Field(default=1.2, ge=0)
    """The part of the context's factor that is always there."""
    context_growth: float = Field(default=2.2, gt=0, le=10)
    """How many times the other part grows each time the context doubles; it is 1 at 1,024 tokens."""
    context_min: float = Field(default=0.1, ge=0)
    """The least factor of a context."""
    context_max: float = Field(default=30.0, gt=0)
    """The largest factor of a context."""
    price_divisor: float = Field(default=100.0, gt=0)
    """What the price of a reply is divided by. Less than the reward's, so that the price covers the reward."""
    reward_divisor: float = Field(default=125.0, gt=0)
    """What the reward for a reply is divided by."""
    unvalidated_share: float = Field(default=0.3, ge=0, le=1)
    """The share of the reward that a worker gets whose program is not in the list."""
    validated_backends: tuple[str, ...] = (
        "AI Horde Worker",
        "AI Horde Worker~aphrodite~oai",
        "AI Horde Worker~aphrodite~kai",
        "KoboldCppEmbedWorker",
        "TabbyAPI",
        "Callboard",
    )
    """The programs of workers that earn the whole reward."""
    job_fee: float = Field(default=1.0, ge=0, le=1000)
    """What each text costs beside the reward."""
    acceptance_fee: float = Field(default=1.0, ge=0, le=1000)
    """What a request costs once, however many texts it asks for."""
    upfront_max_length: int = Field(default=512, ge=1)
    """The longest text that nobody has to have the kudos for while nothing waits; those who have fewer pay what they
    have."""
    upfront_min_length: int = Field(default=256, ge=1)
    """The same, however much waits."""
    upfront_tokens_per_thread: float = Field(default=5.0, ge=0)
    """By how much each thread of the workers raises that length, up to the most."""
    upfront_tokens_per_waiting: float = Field(default=0.9, ge=0)
    """By how much each waiting job lowers it."""
    uptime_period_s: float = Field(default=600.0, ge=60)
    """How long a worker has to be there for one reward for that."""
    uptime_base: float = Field(default=25.0, ge=0)
    """That reward, for a model of the size below."""
    uptime_per_context: float = Field(default=15.0, ge=0)
    """What each 1,024 tokens of the context offered add to it."""
    uptime_max_context: int = Field(default=32_768, ge=80)
    """The longest context that counts for it, since offering one costs nothing."""
    uptime_max_billions: float = Field(default=140.0, gt=0)
    """The largest size that counts for it."""
    uptime_billions: float = Field(default=7.0, gt=0)
    """The size of a model whose reward is not scaled."""


def listed_billions(kudos: KudosSection, model: str) -> float | None:
    """The size of a model as the site has set it, or None."""
    known = kudos.model_billions.get(model)
    return None if known is None else min(max(0.0, known), MAX_BILLIONS)


def model_billions(kudos: KudosSection, model: str) -> float | None:
    """The size of a model as the site has set it or as its name tells it, such as `8x7B` or `135m`, or None."""
    known = listed_billions(kudos, model)
    if known is not None:
        return known
    found = list(_SIZE.finditer(model.replace("_", "-")))
    if not found:
        return None
    experts, size, unit = found[0].groups()
    return min(float(size) * (int(experts) if experts else 1) / (1000 if unit in "mM" else 1), MAX_BILLIONS)


def context_factor(kudos: KudosSection, tokens: int) -> float:
    """How much more a reply costs by the tokens that are read for it."""
    grown = kudos.context_growth ** math.log2(max(1, tokens) / TOKENS_PER_STEP)
    return min(max(kudos.context_base + grown, kudos.context_min), kudos.context_max)


def counted_tokens(text: str, most: int) -> int:
    """How many tokens a text counts as, since nobody can check what a worker says: a quarter of its characters."""
    return min(max(MIN_COUNTED_TOKENS, len(text) // CHARACTERS_PER_TOKEN), most)


def price(kudos: KudosSection, *, max_length: int, context_tokens: int, billions: float | None) -> int:
    """The most that one text can cost, without fees; `context_tokens` is the context that is asked for."""
    size = kudos.reference_billions if billions is None else billions
    scaled = max_length * _bonus(kudos, size) * size * context_factor(kudos, context_tokens)
    return _bounded(math.ceil(scaled / kudos.price_divisor * KUDOS_SCALE))


def reward(
    kudos: KudosSection, *, tokens: int, prompt_tokens: int, billions: float | None, validated: bool = True
) -> int:
    """What a written text earns; `tokens` are those of the text, as `counted_tokens` has them.

    A model of unknown size earns the context's factor alone, whatever the length, and a text of nothing earns nothing.
    """
    if tokens <= 0:
        return 0
    earned = context_factor(kudos, prompt_tokens)
    if billions is not None:
        earned *= tokens * _bonus(kudos, billions) * billions / kudos.reward_divisor
    return _bounded(int(earned * (1.0 if validated else kudos.unvalidated_share) * KUDOS_SCALE))


def fees(kudos: KudosSection, *, accepts: bool) -> int:
    """What a text costs beside its reward; the first of a request with what its acceptance costs."""
    return round((kudos.job_fee + (kudos.acceptance_fee if accepts else 0.0)) * KUDOS_SCALE)


def is_validated(kudos: KudosSection, bridge_agent: str) -> bool:
    """Whether a worker that names itself `program:version:contact` earns the whole reward."""
    return bridge_agent.partition(":")[0] in kudos.validated_backends


def needs_upfront(kudos: KudosSection, *, max_length: int, threads: int, waiting: int, slow_workers: bool) -> bool:
    """Whether a requester must have the whole price: for a long text while much waits, or for fast workers alone.

    `threads` are the workers' at this moment, and `waiting` the jobs in the queue.
    """
    return not slow_workers or max_length > free_length(kudos, threads=threads, waiting=waiting)


def free_length(kudos: KudosSection, *, threads: int, waiting: int) -> int:
    """The longest text that nobody has to have the price for at this moment, where slow workers may write it."""
    allowed = (
        kudos.upfront_max_length
        + kudos.upfront_tokens_per_thread * threads
        - kudos.upfront_tokens_per_waiting * waiting
    )
    least = min(kudos.upfront_min_length, kudos.upfront_max_length)
    return int(min(max(allowed, least), kudos.upfront_max_length))


def uptime_reward(kudos: KudosSection, *, context_tokens: int, billions: float | None) -> int:
    """What a worker earns for having been there for a period, by what it offers."""
    size = min(kudos.uptime_billions if billions is None else billions, kudos.uptime_max_billions)
    context_tokens = min(context_tokens, kudos.uptime_max_context)
    earned = kudos.uptime_base + kudos.uptime_per_context * context_tokens / TOKENS_PER_STEP
    return _bounded(int(earned * size / kudos.uptime_billions * KUDOS_SCALE))


def uptime_period(kudos: KudosSection, at: float) -> int:
    """The number of the period that a Unix time lies in."""
    return int(at // kudos.uptime_period_s)


def _bonus(kudos: KudosSection, billions: float) -> float:
    return (max(billions, kudos.reference_billions) / kudos.reference_billions) ** kudos.size_bonus_exponent


def _bounded(thousandths: int) -> int:
    return min(max(0, thousandths), MAX_REWARD)
