"""A text as requesters are shown it."""

from typing import Any

from callboard_contracts.chat import ChatResult
from callboard_contracts.kept import KeptGroup
from callboard_contracts.volunteers import TextNotes
from callboard_edge.protocols.horde.pools import worker_id


def generation(group: KeptGroup, result: ChatResult | None) -> dict[str, Any] | None:
    """A text that is there; of a job that was cancelled, what it had written."""
    if result is None or result.end.error is not None or (result.end.reason == "cancelled" and not result.text):
        return None
    stop = result.end.stop_sequence
    # Clients look for the stop sequence that they sent, and cut it off themselves.
    by = result.end.served_by
    notes = TextNotes() if by is None else by.notes
    text = result.text + stop if stop is not None and stop in group.stops else result.text
    if notes.state == "csam":
        # What was told before its volunteer saw what it was is shown to nobody who asks now.
        text = ""
    return {
        "text": text,
        "seed": notes.seed,
        "worker_id": worker_id(group.pool) if by is None else by.worker_id,
        "worker_name": group.pool if by is None else by.worker_name,
        "model": group.model if by is None else by.model,
        "state": notes.state,
        "gen_metadata": [one.model_dump(exclude_none=True) for one in notes.gen_metadata],
    }
