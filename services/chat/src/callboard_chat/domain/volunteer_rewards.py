"""What volunteers earn with their texts."""

from callboard_chat.domain.posted_job import Handout, PostedJob, Reward
from callboard_contracts.kudos_price import KudosSection, counted_tokens, model_billions, reward

UNBOUNDED = 2**31


def reward_by(kudos: KudosSection) -> Reward:
    """The rule of a site; nothing where it counts no kudos, and nothing for a text of blanks."""

    def rewarded(job: PostedJob, handout: Handout, text: str) -> int:
        if not kudos.enabled or not text.strip():
            return 0
        return reward(
            kudos,
            tokens=counted_tokens(text, job.max_tokens),
            prompt_tokens=counted_tokens(job.waiting.prompt, UNBOUNDED),
            billions=model_billions(kudos, handout.by.model),
            validated=handout.validated,
        )

    return rewarded
