"""Tables of words, written as lines of text."""


def pairs(text: str) -> dict[str, str]:
    """A table out of `a=b|c=d`."""
    return dict(pair.split("=", 1) for pair in text.split("|"))


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())
