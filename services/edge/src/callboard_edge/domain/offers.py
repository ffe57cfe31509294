"""What callers of each tier may ask for: the whole catalogue, or a part of it."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from callboard_contracts.config import TierSection
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import Catalogue, ChatModel, M, RecognitionModel, SpeechModel
from callboard_edge.domain.character_models import CharacterCatalogue
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.workers import Workers

REMEMBERED_S = 10.0
"""How long a caller's tier is remembered."""
MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Offer:
    """The models that a caller is offered, characters among them."""

    chat_models: Catalogue[ChatModel]
    speech_models: Catalogue[SpeechModel]
    embedding_models: Catalogue[ChatModel] = field(default_factory=lambda: Catalogue[ChatModel](()))
    recognition_models: Catalogue[RecognitionModel] = field(default_factory=lambda: Catalogue[RecognitionModel](()))


class Offers:
    """The catalogue, as callers of each tier see it.

    `tier_of` tells a caller's tier; it is asked only where a tier of the site is offered less than everything.
    """

    def __init__(
        self,
        everything: Offer,
        tiers: Mapping[str, TierSection],
        tier_of: Callable[[Caller], Awaitable[str]],
        characters: Characters,
        workers: Workers,
    ) -> None:
        def with_characters(offer: Offer, names: tuple[str, ...] | None) -> Offer:
            models = CharacterCatalogue(offer.chat_models, everything.chat_models, characters, workers, names)
            return replace(offer, chat_models=models)

        self._everything = with_characters(everything, None)
        self._by_tier = {
            name: with_characters(_part(everything, tier), tier.models)
            for name, tier in tiers.items()
            if tier.models is not None or tier.voices is not None
        }
        self._tier_of = tier_of
        self._remembered: OrderedDict[Caller, tuple[str, float]] = OrderedDict()

    async def to(self, caller: Caller) -> Offer:
        """What a caller is offered.

        Raises:
            CallboardError: the caller's key is unknown, or quota is away.
        """
        if not self._by_tier:
            return self._everything
        return self._by_tier.get(await self._tier(caller), self._everything)

    async def _tier(self, caller: Caller) -> str:
        known, now = self._remembered.get(caller), time.monotonic()
        if known is not None and now < known[1]:
            return known[0]
        tier = await self._tier_of(caller)
        self._remembered[caller] = (tier, now + REMEMBERED_S)
        self._remembered.move_to_end(caller)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return tier


def _part(everything: Offer, tier: TierSection) -> Offer:
    speech = _named(everything.speech_models, tier.models)
    voiced = tuple(replace(model, allowed_voices=tier.voices) for model in speech.models)
    return Offer(
        _named(everything.chat_models, tier.models),
        Catalogue(voiced, speech.default),
        _named(everything.embedding_models, tier.models),
        _named(everything.recognition_models, tier.models),
    )


def _named(catalogue: Catalogue[M], names: Collection[str] | None) -> Catalogue[M]:
    """The models of these names, None for all; the default where it is one of them, else the first one."""
    models = tuple(model for model in catalogue.models if names is None or model.name in names)
    kept = [model.name for model in models]
    default = catalogue.default
    return Catalogue(models, default if default is None or default in kept else next(iter(kept), None))
