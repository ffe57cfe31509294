"""The page of the figures: its sections, of which some may be measured anew while the others stay."""

from collections.abc import Mapping, Sequence

_MARK = "## "


def sections_of(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first section, and each section's lines below its title."""
    head, *parts = f"\n{text}".split(f"\n{_MARK}")
    found: dict[str, str] = {}
    for part in parts:
        title, _, body = part.partition("\n")
        found[title] = body.strip("\n")
    return head.strip("\n"), found


def page_of(head: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The page; titles that the order does not have are left out."""
    parts = [head, *(f"{_MARK}{title}\n\n{sections[title]}" for title in order if title in sections)]
    return "\n\n".join(parts) + "\n"
