"""The models of a pool and what each can do."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.transcription import TranscriptionRequest
from callboard_contracts.workers import Ability


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients name it, and what the engine calls it."""

    name: str
    engine_model: str
    translation: bool = True

    def abilities(self, engine: Set[Ability]) -> frozenset[Ability]:
        """What the model can do on an engine with these abilities."""
        return frozenset(ability for ability in engine if self.translation or ability != "translation")


def transcription_refusal(
    request: TranscriptionRequest, models: Mapping[str, ServedModel], engine: Set[Ability]
) -> ErrorInfo | None:
    """Why a request cannot be served by these models on an engine with these abilities, or None when it can."""
    model = models.get(request.model)
    if model is None:
        offered = tuple(sorted({one.name for one in models.values()}))
        message = "This worker does not serve the model."
        return ErrorInfo(code=ErrorCode.UNKNOWN_MODEL, message=message, param="model", offered=offered)
    abilities = model.abilities(engine)
    if request.task == "translate" and "translation" not in abilities:
        return ErrorInfo(code=ErrorCode.UNSUPPORTED, message="This model does not translate.", param="model")
    if request.word_timestamps and "word_timestamps" not in abilities:
        return ErrorInfo(
            code=ErrorCode.UNSUPPORTED,
            message="This model does not say when each word was said.",
            param="timestamp_granularities",
        )
    return None
