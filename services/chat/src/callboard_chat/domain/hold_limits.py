"""What a hold allows a reply to cost: the worker cuts it there, and never has more charged."""

from callboard_contracts.quota import Hold, Work


def output_allowed(hold: Hold | None, prompt_tokens: int) -> int | None:
    """How many tokens of output a hold pays for beside a prompt; None when nothing bounds them.

    A negative number means that not even the prompt is held.
    """
    if hold is None or hold.units is None:
        return None
    left_units = hold.units - prompt_tokens * hold.rates.prompt_units
    if left_units < 0:
        return -1
    return left_units // hold.rates.completion_units if hold.rates.completion_units else None


def within(hold: Hold | None, work: Work) -> Work:
    """The work as it is charged: what was written counts first, and of the prompt as much as is still held."""
    if hold is None or hold.units is None:
        return work
    rates = hold.rates
    written, read = work.completion_tokens, work.prompt_tokens
    if rates.completion_units:
        written = min(written, hold.units // rates.completion_units)
    if rates.prompt_units:
        read = min(read, (hold.units - written * rates.completion_units) // rates.prompt_units)
    return work.model_copy(update={"prompt_tokens": read, "completion_tokens": written})
