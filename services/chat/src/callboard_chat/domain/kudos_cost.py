"""What a reply costs its requester in kudos, where it costs any."""

from callboard_contracts.chat import ChatEnd, ChatJob
from callboard_contracts.kudos_price import KudosSection, reward


def kudos_cost(kudos: KudosSection, job: ChatJob, end: ChatEnd, earned: int | None = None) -> int:
    """What the requester pays, in thousandths: the reward for what was written and the job's fee, as far as it is held.

    What failed, or ended before a word, costs nothing. `earned` is the reward where a volunteer wrote the reply;
    otherwise it is reckoned by the tokens that the site's own engine has counted.
    """
    terms = job.kudos
    if terms is None or job.hold is None or end.reason == "error" or not end.usage.completion_tokens:
        return 0
    if earned is None:
        usage = end.usage
        earned = reward(
            kudos, tokens=usage.completion_tokens, prompt_tokens=usage.prompt_tokens, billions=terms.billions
        )
    return min(earned + terms.fee, job.hold.kudos)
