"""The settings of a session, and how they and a single response's are read from what a client sends."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.voice_activity import TurnDetection
from callboard_edge.protocols.openai.realtime_bodies import (
    AudioBody,
    BetaFormat,
    ChosenFunction,
    FormatBody,
    Modalities,
    SessionBody,
    SettingsBody,
    TranscriptionBody,
    TurnDetectionBody,
    VoiceBody,
)
from callboard_edge.protocols.openai.responses_bodies import ChosenResponseTool, ResponseTool

_FORMATS: dict[str, BetaFormat] = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
FORMAT_TYPES = {name: kind for kind, name in _FORMATS.items()}
PCM_RATE_HZ = 24_000
_SILENCES_MS = {"low": 1200, "medium": 700, "high": 400, "auto": 700}
"""How long a silence each eagerness waits for."""


USUAL_TURNS = TurnDetection()


@dataclass(frozen=True, slots=True)
class Detection:
    """How turns are found, and what becomes of them."""

    turns: TurnDetection = USUAL_TURNS
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True, slots=True)
class Transcription:
    """How what is said is written down for the client; `model` is None for the site's own."""

    model: str | None = None
    language: str | None = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What holds for a session, or for one of its responses; what is heard is shown where `transcription` is set."""

    model: str
    instructions: str = ""
    spoken: bool = True
    voice: str | None = None
    speed: float = 1.0
    input_format: BetaFormat = "pcm16"
    output_format: BetaFormat = "pcm16"
    transcription: Transcription | None = None
    detection: Detection | None = Detection()
    tools: tuple[ResponseTool, ...] = ()
    tool_choice: str | ChosenResponseTool = "auto"
    temperature: float | None = None
    max_output_tokens: int | None = None

    @property
    def input_rate_hz(self) -> int:
        """How many samples a second of the client's sound has."""
        return PCM_RATE_HZ if self.input_format == "pcm16" else 8000


def updated(settings: SessionSettings, body: SettingsBody) -> SessionSettings:
    """The settings with what a client changes of them.

    Raises:
        CallboardError: it asks for what is not served.
    """
    given = body.model_fields_set
    changes: dict[str, Any] = {}
    if "instructions" in given:
        changes["instructions"] = body.instructions or ""
    for name in ("output_modalities", "modalities"):
        if name in given and (modalities := getattr(body, name)) is not None:
            changes["spoken"] = _is_spoken(modalities, name)
    if "tools" in given:
        changes["tools"] = tuple(body.tools or ())
    if "tool_choice" in given:
        changes["tool_choice"] = _tool_choice(body.tool_choice)
    if "temperature" in given:
        changes["temperature"] = body.temperature
    for name in ("max_output_tokens", "max_response_output_tokens"):
        if name in given:
            limit = getattr(body, name)
            changes["max_output_tokens"] = limit if isinstance(limit, int) else None
    changes |= _of_voice(body)
    if isinstance(body, SessionBody):
        changes |= _of_session(body)
    return replace(settings, **changes)


def _tool_choice(choice: str | ChosenFunction | None) -> str | ChosenResponseTool:
    if isinstance(choice, ChosenFunction):
        name = choice.name if choice.function is None else choice.function.name
        return ChosenResponseTool(type=choice.type, name=name)
    if choice is None or choice in ("none", "auto", "required"):
        return choice or "auto"
    return ChosenResponseTool(type="function", name=choice)


def _of_voice(body: SettingsBody) -> dict[str, Any]:
    changes = {} if body.audio is None else _of_audio(body.audio)
    if body.voice is not None:
        changes["voice"] = body.voice
    if body.output_audio_format is not None:
        changes["output_format"] = body.output_audio_format
    return changes


def _is_spoken(modalities: Modalities, name: str) -> bool:
    if not modalities:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "At least one modality is needed.", param=f"session.{name}")
    return "audio" in modalities


def _of_audio(body: AudioBody) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if (heard := body.input) is not None:
        if heard.format is not None:
            changes["input_format"] = _format(heard.format, "session.audio.input.format.rate")
        if "transcription" in heard.model_fields_set:
            changes["transcription"] = _transcription(heard.transcription)
        if "turn_detection" in heard.model_fields_set:
            changes["detection"] = _detection(heard.turn_detection)
    if (spoken := body.output) is not None:
        if spoken.format is not None:
            changes["output_format"] = _format(spoken.format, "session.audio.output.format.rate")
        if spoken.voice is not None:
            changes["voice"] = spoken.voice.id if isinstance(spoken.voice, VoiceBody) else spoken.voice
        if spoken.speed is not None:
            changes["speed"] = spoken.speed
    return changes


def _of_session(body: SessionBody) -> dict[str, Any]:
    if body.type not in (None, "realtime"):
        raise unsupported("Sessions are of the type 'realtime' here.", "session.type")
    changes: dict[str, Any] = {}
    if body.speed is not None:
        changes["speed"] = body.speed
    if body.input_audio_format is not None:
        changes["input_format"] = body.input_audio_format
    if "input_audio_transcription" in body.model_fields_set:
        changes["transcription"] = _transcription(body.input_audio_transcription)
    if "turn_detection" in body.model_fields_set:
        changes["detection"] = _detection(body.turn_detection)
    return changes


def _format(body: FormatBody, place: str) -> BetaFormat:
    name = _FORMATS[body.type]
    if name == "pcm16" and body.rate not in (None, PCM_RATE_HZ):
        raise unsupported(f"PCM has {PCM_RATE_HZ} samples a second here.", place)
    return name


def _transcription(body: TranscriptionBody | None) -> Transcription | None:
    return None if body is None else Transcription(body.model, body.language, body.prompt or "")


def _detection(body: TurnDetectionBody | None) -> Detection | None:
    if body is None:
        return None
    usual = USUAL_TURNS
    silence_ms = body.silence_duration_ms or usual.silence_duration_ms
    if body.type == "semantic_vad":
        silence_ms = _SILENCES_MS[body.eagerness or "auto"]
    turns = TurnDetection(
        usual.threshold if body.threshold is None else body.threshold,
        usual.prefix_padding_ms if body.prefix_padding_ms is None else body.prefix_padding_ms,
        silence_ms,
    )
    return Detection(turns, body.create_response is not False, body.interrupt_response is not False)


Shape = Literal["ga", "beta"]


def session_object(settings: SessionSettings, session_id: str, expires_at: int, shape: Shape) -> dict[str, Any]:
    """The settings as the client sees them."""
    limit = settings.max_output_tokens or "inf"
    heard = None
    if settings.transcription is not None:
        # Some clients take no null for a name.
        heard = {name: value for name, value in asdict(settings.transcription).items() if value is not None}
    common = {
        "id": session_id,
        "object": "realtime.session",
        "expires_at": expires_at,
        "model": settings.model,
        "instructions": settings.instructions,
        "tools": [tool.model_dump(exclude_none=True) for tool in settings.tools],
        "tool_choice": _choice_object(settings.tool_choice, shape),
        "tracing": None,
    }
    if shape == "beta":
        return common | {
            "modalities": modalities(settings, shape),
            "voice": settings.voice,
            "speed": settings.speed,
            "input_audio_format": settings.input_format,
            "output_audio_format": settings.output_format,
            "input_audio_noise_reduction": None,
            "input_audio_transcription": heard,
            "turn_detection": _detection_object(settings.detection),
            "temperature": settings.temperature,
            "max_response_output_tokens": limit,
        }
    return common | {
        "type": "realtime",
        "output_modalities": modalities(settings, shape),
        "max_output_tokens": limit,
        "truncation": "auto",
        "prompt": None,
        "include": None,
        "audio": {
            "input": {
                "format": format_object(settings.input_format),
                "noise_reduction": None,
                "transcription": heard,
                "turn_detection": _detection_object(settings.detection),
            },
            "output": {
                "format": format_object(settings.output_format),
                "voice": settings.voice,
                "speed": settings.speed,
            },
        },
    }


def _choice_object(choice: str | ChosenResponseTool, shape: Shape) -> str | dict[str, Any]:
    """How the model chooses tools; to clients of the beta it is a string in any case."""
    if isinstance(choice, str):
        return choice
    return choice.name or "" if shape == "beta" else choice.model_dump(exclude_none=True)


def modalities(settings: SessionSettings, shape: Shape) -> list[str]:
    """What the answers of a session are."""
    if not settings.spoken:
        return ["text"]
    return ["audio"] if shape == "ga" else ["text", "audio"]


def format_object(name: BetaFormat) -> dict[str, Any]:
    """A form of sound."""
    kind: dict[str, Any] = {"type": FORMAT_TYPES[name]}
    return kind | {"rate": PCM_RATE_HZ} if name == "pcm16" else kind


def _detection_object(detection: Detection | None) -> dict[str, Any] | None:
    if detection is None:
        return None
    turns = detection.turns
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_padding_ms,
        "silence_duration_ms": turns.silence_duration_ms,
        "idle_timeout_ms": None,
        "create_response": detection.create_response,
        "interrupt_response": detection.interrupt_response,
    }
