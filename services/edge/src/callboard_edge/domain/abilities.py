"""What a request asks of a model, and whether the model can do it."""

from collections.abc import Set

from callboard_contracts.chat import ChatRequest, Sampling
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.transcription import TranscriptionRequest
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.catalogue import ChatModel, RecognitionModel

_SAMPLING_DEFAULTS = {name: field.default for name, field in Sampling.model_fields.items()}
_OURS = frozenset({"stop"})
"""What workers do themselves, whatever the engine honours."""


def check_abilities(request: ChatRequest, model: ChatModel) -> None:
    """Refuses what the model cannot do.

    Raises:
        CallboardError: `unsupported`, with the request's field as `param`.
    """
    if request.output_format.kind != "text" and not model.json_schema:
        raise unsupported("This model cannot be held to a JSON form.", "output_format")
    if not model.images:
        for index, message in enumerate(request.messages):
            if message.images:
                raise unsupported("Images cannot be read by this model; send text only.", f"messages[{index}]")


def check_embeds(offered: OfferedModel | None) -> None:
    """Refuses a model whose workers make no embeddings, whatever the configuration says.

    Raises:
        CallboardError: `unsupported`.
    """
    if offered is not None and "embedding" not in offered.abilities:
        raise unsupported("This model makes no embeddings.", "model")


def check_hears(request: TranscriptionRequest, model: RecognitionModel, offered: OfferedModel | None) -> None:
    """Refuses what the model cannot hear or write, as far as its workers said.

    Raises:
        CallboardError: `unsupported`, with the request's field as `param`.
    """
    abilities = None if offered is None else offered.abilities
    wanted = {
        "translation": (request.task == "translate", "This model does not translate.", "model"),
        "word_timestamps": (request.word_timestamps, "This model does not time words.", "word_timestamps"),
        "hotwords": (bool(request.hotwords), "This model takes no words to listen for.", "hotwords"),
    }
    for ability, (asked, message, param) in wanted.items():
        offers = abilities is None or ability in abilities
        if asked and not (offers and (model.translation or ability != "translation")):
            raise unsupported(message, param)
    if offered is not None and offered.languages and request.language not in {None, *offered.languages}:
        raise unsupported("This model does not hear this language.", "language")


def with_usable_tools(request: ChatRequest, model: ChatModel, offered: OfferedModel | None) -> ChatRequest:
    """The request with the tools that the model may call; none where they are ignored.

    Raises:
        CallboardError: `unsupported`, where tools are refused, cannot be called, or must be called but are ignored.
    """
    if not request.tools:
        return request
    if model.tools == "ignore":
        if request.tool_choice not in {"auto", "none"}:
            raise unsupported("This model calls no tools and cannot be made to.", "tool_choice")
        return request.model_copy(update={"tools": ()})
    if model.tools == "refuse" or (offered is not None and "tools" not in offered.abilities):
        raise unsupported("This model cannot call tools.", "tools")
    return request


def with_honoured_sampling(request: ChatRequest, offered: OfferedModel | None, refused: Set[str]) -> ChatRequest:
    """The request without the sampling fields that the model's engine does not honour.

    Raises:
        CallboardError: `unsupported` for one of `refused`, the fields that the protocol never lets pass unheard.
    """
    if offered is None:
        return request
    sampling = request.sampling
    if not sampling.model_fields_set:
        return request
    given = {name for name in sampling.model_fields_set if getattr(sampling, name) != _SAMPLING_DEFAULTS[name]}
    dropped = given - _OURS - set(offered.sampling)
    if not dropped:
        return request
    if unheard := sorted(dropped & refused):
        raise unsupported("This model's engine does not take this setting.", unheard[0])
    kept = sampling.model_copy(update={name: _SAMPLING_DEFAULTS[name] for name in dropped})
    return request.model_copy(update={"sampling": kept})


def unsupported(message: str, param: str) -> CallboardError:
    """The error for what cannot be served."""
    return CallboardError(ErrorCode.UNSUPPORTED, message, param=param)
