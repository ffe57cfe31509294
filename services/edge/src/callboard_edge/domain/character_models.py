"""The chat models that characters are to callers."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from callboard_contracts.characters import EVERY_CHARACTER, Character
from callboard_contracts.errors import CallboardError
from callboard_edge.domain.catalogue import Catalogue, ChatModel
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.workers import Workers, check_pool


class CharacterCatalogue(Catalogue[ChatModel]):
    """Chat models, and the characters that answer with one of them.

    `offered` are the models that a caller may ask for, `everything` all of the site. `names` are what the caller's tier
    names, None for all: a character is offered by its own name, or with its model.
    """

    def __init__(
        self,
        offered: Catalogue[ChatModel],
        everything: Catalogue[ChatModel],
        characters: Characters,
        workers: Workers,
        names: Collection[str] | None,
    ) -> None:
        super().__init__((), offered.default)
        self._offered = offered
        self._everything = everything
        self._characters = characters
        self._workers = workers
        self._names = names

    @property
    def models(self) -> tuple[ChatModel, ...]:
        """The models on offer, then the characters by their names."""
        found = (self._as_model(character) for character in self._characters)
        return (*self._offered.models, *(model for model in found if model is not None))

    def find(self, name: str) -> ChatModel | None:
        """The model of a name or alias, or the character of `character/<name>`, or None."""
        if (own := self._offered.find(name)) is not None:
            return own
        character = self._characters.named(name)
        return None if character is None else self._as_model(character)

    def _as_model(self, character: Character) -> ChatModel | None:
        """A character as a chat model: its own model, or its fallback while no worker of that is expected."""
        served = [model for model in self._models_of(character) if self._may_use(character, model)]
        if not served:
            return None
        model = next(filter(self._is_expected, served), served[0])
        most = min(character.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
        return replace(
            model, name=character.model_name, aliases=(), max_output_tokens=most, character=character, base=model
        )

    def _models_of(self, character: Character) -> Iterator[ChatModel]:
        default = self._everything.default or next(iter(self._everything.names), None)
        for name in (character.model or default, character.fallback_model):
            if name is not None and (model := self._everything.find(name)) is not None:
                yield model

    def _may_use(self, character: Character, model: ChatModel) -> bool:
        names = self._names
        return names is None or bool({model.name, character.model_name, EVERY_CHARACTER} & set(names))

    def _is_expected(self, model: ChatModel) -> bool:
        try:
            check_pool(self._workers, "chat", model)
        except CallboardError:
            return False
        return True
