"""What scripts ask, in the neutral form: models, voices, rooms and callers."""

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling, Thinking
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechRequest
from callboard_contracts.voices import kokoro_language
from callboard_contracts.workers import OfferedVoice
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import Catalogue, ChatModel, SpeechModel
from callboard_edge.domain.languages import voice_for_language
from callboard_edge.domain.room_turns import Speech
from callboard_edge.domain.workers import Workers
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.talkmaster.bodies import Options, Spoken
from callboard_edge.protocols.talkmaster.errors import Refusal

OWNER = "X-SecondLife-Owner-Key"
SECRET = "X-Room-Secret"  # noqa: S105 - the name of a header
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """A room's public name, and the secret that came with it."""

    key: str
    secret: str = ""


def room_key(call: Call, key: str, secret: str = "") -> ClaimedKey:
    """Reads a room's name.

    The secret of a claimed room comes in a header, in the query, in a field of its own, or after the name and `!`, as a
    notecard can have it.

    Raises:
        Refusal: the name has a space in it, or the secret is no text.
    """
    secret = call.request.headers.get(SECRET, "") or secret or call.request.query.get("secret", "")
    key, written = split_key(key)
    secret = secret or written
    if not key or any(character.isspace() for character in key):
        raise Refusal(ErrorCode.INVALID_REQUEST, 400, {"error": "The key must not be empty or have spaces in it."})
    # A header may hold any bytes.
    if any("\ud800" <= character <= "\udfff" for character in secret):
        raise Refusal(ErrorCode.INVALID_REQUEST, 400, {"error": "The secret is not valid UTF-8."})
    return ClaimedKey(key, secret)


def split_key(key: str) -> tuple[str, str]:
    """A room's public name, and the secret that a notecard has written behind it."""
    name, _, secret = key.partition("!")
    return (name, secret) if name and secret else (key, "")


def caller_of(context: EdgeContext, call: Call) -> Caller:
    """Who asks: the owner of the object, where the site trusts the simulator, else the address.

    An owner counts as an address of a network of its own, out of those that are nobody's.
    """
    caller, owner = call.caller, call.request.headers.get(OWNER, "").lower()
    if caller.address is None or caller.key_digest is not None or not _UUID.fullmatch(owner):
        return caller
    address = ip_address(caller.address.partition("%")[0])
    if not any(address in network for network in context.settings.simulators):
        return caller
    network = b"\xfd" + hashlib.sha256(owner.encode()).digest()[:7]
    return Caller(None, str(IPv6Address(network + bytes(8))))


def sampling_of(options: Options) -> Sampling:
    """The settings under our names."""
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        repetition_range=options.repeat_last_n,
        seed=options.seed,
        stop=tuple(text for text in options.stop if text),
    )


def chat_request(
    workers: Workers,
    model: ChatModel,
    instructions: str,
    sampling: Sampling,
    *,
    limit: int | None = None,
    think: bool = False,
    message: str | None = None,
) -> ChatRequest:
    """A request to a model: its instructions, and a message where no room adds one."""
    messages: list[ChatMessage] = []
    if instructions.strip():
        messages.append(ChatMessage(role="system", content=instructions))
    if message is not None:
        messages.append(ChatMessage(role="user", content=message))
    offered = workers.model("chat", model.pool, model.served_name)
    thinks = offered is not None and "thinking" in offered.abilities
    return ChatRequest(
        model=model.name,
        messages=tuple(messages),
        sampling=sampling,
        max_output_tokens=model.output_limit(limit if limit and limit > 0 else None),
        thinking=Thinking(enabled=think) if thinks else Thinking(),
    )


def speech_of(
    models: Catalogue[SpeechModel], workers: Workers, spoken: Spoken, *, text: str = "", language: str | None = None
) -> Speech | None:
    """How something is to be spoken; None where the site has no speech, or no voice of the language.

    An empty field means the default. A voice that is named is taken for any language.

    Raises:
        Refusal: the model is not offered, with those that are.
        CallboardError: `unknown_voice`.
    """
    if not models.models:
        return None
    model = models.find(spoken.audio_model) if spoken.audio_model else default_speech_model(models)
    if model is None:
        raise Refusal(
            ErrorCode.UNKNOWN_MODEL,
            400,
            {"error": "There is no audio model of that name here.", "available_audio_models": models.names},
        )
    catalog = model.catalog(workers)
    voice = catalog.resolve(spoken.audio_voice or None)
    if language is not None and not spoken.audio_voice:
        names = catalog.voices or (voice,)
        offered = [
            OfferedVoice(name=name, language=model.language(workers, name) or kokoro_language(name)) for name in names
        ]
        chosen = voice_for_language(offered, language, voice)
        if chosen is None:
            return None
        voice = chosen
    request = SpeechRequest(
        model=model.name,
        text=text,
        voice=voice,
        instructions=spoken.audio_instructions,
        words=catalog.words_of(spoken.audio_voice),
    )
    return Speech(request, model)


def default_speech_model(models: Catalogue[SpeechModel]) -> SpeechModel:
    """The speech model of those who name none: the site's default, else its first."""
    return models.find(models.default) or models.models[0] if models.default else models.models[0]


def chat_model(models: Catalogue[ChatModel], name: str) -> ChatModel:
    """The model of a name, or the default for none; raises CallboardError where it is not offered."""
    if not name and models.default is None and models.models:
        return models.models[0]
    return models.resolve(name or None)


def no_audio() -> CallboardError:
    """The error where the site has no speech."""
    return Refusal(ErrorCode.UNSUPPORTED, 400, {"error": "Audio is not configured on this server."})
