"""How far the jobs of a worker have come, kept on disk, so that what was delivered is charged whatever is killed."""

from callboard_contracts.model import Message
from callboard_contracts.quota import Work


class WorkerProgress(Message):
    """What each running job of one worker has used so far, by its request; numbers only, never text or sound."""

    jobs: dict[str, Work]
