"""The characters of the site, as the rooms service last wrote them."""

from collections.abc import Iterator, Mapping

from callboard_contracts.characters import Character, named_character


class Characters:
    """What is known of each character; one that was deleted is known by its revision."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Character | None, int]] = {}
        self._present: Mapping[str, Character] | None = {}

    def take(self, name: str, character: Character | None, revision: int) -> None:
        """Takes in a character as it is at a revision, None for one that was deleted; what is older is left aside."""
        if revision >= self.revision(name):
            self._known[name] = character, revision
            self._present = None

    def revision(self, name: str) -> int:
        """The revision at which a character is known, 0 for none."""
        return self._known.get(name, (None, 0))[1]

    def find(self, name: str) -> Character | None:
        """The character of a name, or None."""
        return self._known.get(name, (None, 0))[0]

    def named(self, model: str) -> Character | None:
        """The character that a model or a voice stands for, or None."""
        name = named_character(model)
        return None if name is None else self.find(name)

    def __iter__(self) -> Iterator[Character]:
        return iter(self._by_name().values())

    def __len__(self) -> int:
        return len(self._by_name())

    def _by_name(self) -> Mapping[str, Character]:
        if self._present is None:
            present = {name: one for name, (one, _revision) in self._known.items() if one is not None}
            self._present = dict(sorted(present.items()))
        return self._present


NO_CHARACTERS = Characters()
