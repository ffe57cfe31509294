"""The ids of jobs in the hands of volunteers: they tell which process has a job, which job it is, and who got it."""

import secrets
from collections.abc import Callable
from hashlib import blake2b

from callboard_contracts.volunteers import HANDOUT_MARK, ID_MARK, handout_mark

_KEY = 16
_CHANCE = 8


class HandoutIds:
    """Makes the ids of one process, and reads those of all; `mark` begins its own."""

    def __init__(self, mark: str) -> None:
        self._mark = mark[:ID_MARK]

    def new(self, key: str, worker_id: str, is_taken: Callable[[str], bool]) -> str:
        """An id for a job and a volunteer that no hand-out before had."""
        while True:
            chance = secrets.token_hex((_CHANCE - HANDOUT_MARK) // 2)
            job_id = _uuid(self._mark + key + chance + handout_mark(worker_id))
            if not is_taken(job_id):
                return job_id

    def is_own(self, job_id: str) -> bool:
        """Whether this process made an id."""
        return job_id.startswith(self._mark)


def job_key(request_id: str) -> str:
    """The hexadecimal digits that stand for a job in the ids of its hand-outs, in whichever process."""
    return blake2b(request_id.encode(), digest_size=_KEY // 2).hexdigest()


def key_of(job_id: str) -> str:
    """The digits of the job that an id stands for."""
    return job_id.replace("-", "")[ID_MARK : ID_MARK + _KEY]


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))
