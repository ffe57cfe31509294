"""The pools of workers and the models that they serve, as `callboard.toml` has them."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from callboard_contracts.chat import PromptFormat
from callboard_contracts.pronunciation import WordsTable
from callboard_contracts.section import Name, Port, Section

ToolUse = Literal["refuse", "ignore", "grammar"]
VolunteerUse = Literal["never", "second", "first"]


class ModelSection(Section):
    """A model as clients see it."""

    pool: Name
    """The pool of workers that serves the model."""
    engine_model: str | None = None
    """The name that the engine knows the model by; left out, the public name."""
    aliases: tuple[str, ...] = ()
    """Other names that clients may use for it."""


class PoolSection(Section):
    """A group of like workers and the engine behind them."""

    may_sleep: bool = False
    """Whether the pool may be without a worker, as one that is scaled to zero is; its requests then wait for one. Left
    out, they are refused until a first worker has announced itself, and again once all have been gone for long."""
    longest_wake_s: float = Field(default=180.0, gt=0)
    """The longest that a worker of the pool takes to come. A request that no worker has begun waits so long for a pool
    that may sleep, and else for so long after the last worker went; then it is refused."""
    api_key: SecretStr | None = None
    """The key that the engine asks for; best given from a file."""
    memory_limit_mib: int | None = Field(default=None, ge=256)
    """The memory that one worker may allocate, beside mapped model files and a GPU's memory; more ends that worker
    alone. Left out, the memory limit of its container, or three quarters of the machine's memory."""
    metrics_port: Port = 0
    """The port of a worker's `/metrics`, `/healthz` and `/readyz`; 0 takes a free one."""
    max_queued_per_tenant: int = Field(default=64, ge=1)
    """How many requests of one caller may wait; the largest of all pools counts."""


class ChatModelSection(ModelSection):
    """A model as clients see it."""

    context_tokens: int = Field(default=4096, ge=128)
    """The most that prompt and reply may have together."""
    max_output_tokens: int = Field(default=1024, ge=1)
    """The most that one reply may have, and what is held for a request that names no limit."""
    tools: ToolUse = "grammar"
    """What becomes of the tools that a request offers: `grammar` lets the model call them, the embedded engine through
    a grammar and others in their own way; `refuse` refuses the request; `ignore` answers it in plain text."""
    json_schema: bool = True
    """Whether the engine can hold a reply to a JSON schema."""
    images: bool = False
    """Whether the engine can read images."""
    embeddings: bool = False
    """Whether the model makes embeddings. With `llamacpp` this has the whole pool read each text at once, so that a
    model that also writes replies is slower to stop them."""
    chat: bool = True
    """Whether the model writes replies; a model that only makes embeddings does not."""
    prompt_format: PromptFormat = "own"
    """How turns are written in prompts: `own` is the model's chat template; `chatml`, `alpaca`, `metharme` and
    `pygmalion` are forms that models without one were trained on."""
    parse_special: bool = False
    """Whether control tokens in the text of messages act as such. Left out, they are plain text, and only the model's
    template makes turns."""
    volunteer_models: tuple[str, ...] = ()
    """In a pool that shares its jobs with volunteers: the names under which they offer the model; left out, the public
    name."""


class ChatPoolSection(PoolSection):
    """A group of like workers and the engine behind them."""

    backend: Literal["llamacpp", "ollama", "openai", "volunteers", "fake"]
    """What kind of engine it is."""
    slots: int = Field(default=4, ge=1, le=1024)
    """How many replies one worker writes at once; for `volunteers`, where it is left out, 512 jobs wait for one."""
    url: str | None = None
    """The engine's address, for `ollama` and `openai` (there with its version segment)."""
    model_file: str | None = None
    """For `llamacpp`: the name of a file that `callboard models` knows, or a path to a GGUF file."""
    threads: int | None = Field(default=None, ge=1)
    """For `llamacpp`: processor threads; left out, all processors for prompts and several replies at once, and all but
    one for a single reply."""
    prompt_cache_mib: int | None = Field(default=None, ge=0)
    """For `llamacpp`: the most memory, in MiB, for prompts that have lost their slot to another and may come again; 0
    keeps none. Left out, an eighth of the worker's memory limit, at most 8192."""
    prompt_format: PromptFormat = "alpaca"
    """For `volunteers`: how turns are written in the prompts of models that the configuration does not name. In a pool
    that shares its jobs with volunteers, the same for dialogues that its own engine writes by the model's template."""
    volunteer_time_s: float = Field(default=30.0, ge=1)
    """The time that a volunteer has for a job, beside half a second for each token that it may write."""
    volunteers: VolunteerUse = "never"
    """Whether the pool shares its jobs with volunteers: as `second` they get what its own engine has no room for, as
    `first` its own engine gets what they have no room for. Whoever drops a job leaves it to the other."""
    volunteer_slots: int = Field(default=32, ge=1, le=1024)
    """Where jobs are shared: how many one worker may have beside its `slots`, with volunteers or waiting."""
    second_after_jobs: int = Field(default=0, ge=0)
    """Where jobs are shared: how many wait in one worker for those who come first before the others get any."""
    second_after_s: float = Field(default=10.0, ge=0)
    """Where jobs are shared: how long a job waits at most for those who come first before the others may have it."""
    resume: Literal["prefill", "restart"] = "prefill"
    """How a reply goes on after its worker died: `prefill` hands the engine what was already said as the start of
    its answer; `restart` ends the reply with a retryable error instead."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """How long a connection to the engine may take."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """The longest silence of an engine in the middle of a reply before it counts as failed."""
    watchdog_timeout_s: float = Field(default=30.0, ge=6)
    """How long an engine may neither answer nor obey the order to stop a job before its worker ends, to be restarted.
    With a large model on few processor cores, one batch of a prompt must fit into it."""

    @property
    def is_shared(self) -> bool:
        """Whether an engine of the site and volunteers write for the pool."""
        return self.volunteers != "never"

    @property
    def takes_volunteers(self) -> bool:
        """Whether volunteers write for the pool, alone or not."""
        return self.is_shared or self.backend == "volunteers"

    @model_validator(mode="after")
    def _has_an_engine_to_share_with(self) -> Self:
        if self.is_shared and self.backend == "volunteers":
            raise ValueError("volunteers: found with the backend 'volunteers', which has no engine to share jobs with")
        return self


class ChatSection(Section):
    """Chat pools and the models they serve."""

    pools: dict[Name, ChatPoolSection] = Field(default_factory=dict)
    models: dict[str, ChatModelSection] = Field(default_factory=dict)
    default_model: str | None = None
    """The model of requests that name none."""
    hold_slice_tokens: int = Field(default=256, ge=16, le=1_000_000)
    """How much of a reply is held at first; when that is used up, as much again each time as was written."""
    drain_timeout_s: float = Field(default=30.0, gt=0)
    """How long running replies may go on after the order to stop."""

    @model_validator(mode="after")
    def _models_do_what_they_are_for(self) -> Self:
        for name, model in self.models.items():
            if not (model.chat or model.embeddings):
                raise ValueError(f"models.{name}: chat and embeddings are both off; a model does one of them at least")
            if name == self.default_model and not model.chat:
                raise ValueError(f"default_model: found {name!r}, which writes no replies")
        return self


class SpeechModelSection(ModelSection):
    """A speech model as clients see it."""

    voices: tuple[str, ...] = ()
    """The voices on offer; left out, all voices that the backend knows (Kokoro's)."""
    voice_aliases: dict[str, str] = Field(default_factory=dict)
    """Other names for voices, and the voice that each means."""
    default_voice: str = "af_heart"
    """The voice of requests that name none."""


class SpeechPoolSection(PoolSection):
    """A group of like speech workers and the engine behind them."""

    backend: Literal["kokoro_onnx", "kokoro", "openai", "fake"]
    """What kind of engine it is."""
    slots: int = Field(default=1, ge=1, le=256)
    """How many pieces of text one worker's engine speaks at once."""
    utterances_at_once: int = Field(default=16, ge=1, le=1024)
    """How many utterances one worker has in work; they share its slots piece by piece. There are never fewer than
    slots."""
    url: str | None = None
    """For `openai`: the engine's address with its version segment."""
    model_file: str | None = None
    """The model: a name that `callboard models` knows, or a path."""
    voices_file: str | None = None
    """The voices: a folder that `callboard models` knows, or a path."""
    threads: int | None = Field(default=None, ge=1)
    """For `kokoro_onnx`: processor threads; left out, what the engine chooses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """For `kokoro`: where the model runs."""
    piece_timeout_s: float = Field(default=60.0, gt=0)
    """The longest that one piece of text may take the engine."""
    watchdog_timeout_s: float = Field(default=30.0, ge=6)
    """How long an engine may ignore the order to stop a job before its worker ends, to be restarted."""


class TtsSection(Section):
    """Speech pools, the models they serve, and how speech sounds."""

    pools: dict[Name, SpeechPoolSection] = Field(default_factory=dict)
    models: dict[str, SpeechModelSection] = Field(default_factory=dict)
    default_model: str | None = None
    """The model of requests that name none."""
    max_input_characters: int = Field(default=4096, ge=1)
    """The longest text of one request."""
    comma_pause_ms: int = Field(default=300, ge=0, le=5000)
    """The pause after a clause."""
    sentence_pause_ms: int = Field(default=600, ge=0, le=5000)
    """The pause after a sentence."""
    words: WordsTable = Field(default_factory=dict)
    """How words are spoken, before every other rule: another spelling, or phonemes as in `"/ˈænə/"`."""
    voice_words: dict[str, WordsTable] = Field(default_factory=dict)
    """The same for single voices, over the list for all."""
    ahead_s: float = Field(default=20.0, ge=1, le=600)
    """How far ahead of its listener speech is made while others wait for a first sound or are nearly dry."""
    admission_timeout_s: float = Field(default=15.0, ge=0, le=600)
    """How long a text waits until its listener can be kept fed beside the others; then it is refused."""
    role_play: Literal["pause", "silence", "voice"] = "pause"
    """What becomes of an action between asterisks, as in `*waves* Hello.`: a pause in its place, nothing at all, or
    `role_play_voice` reads it."""
    role_play_voice: str | None = None
    """The voice that reads actions, or a blend; a model that does not offer it makes a pause."""
    hold_slice_ms: int = Field(default=15_000, ge=1000, le=600_000)
    """How much sound is held at a time: for the beginning of a text, and again each time before that is used up."""
    drain_timeout_s: float = Field(default=30.0, gt=0)
    """How long running utterances may go on after the order to stop."""

    @model_validator(mode="after")
    def _actions_have_a_voice(self) -> Self:
        if self.role_play == "voice" and not self.role_play_voice:
            raise ValueError("role_play_voice: found none, needed where role_play is 'voice'")
        return self


class RecognitionModelSection(ModelSection):
    """A model that writes down speech, as clients see it."""

    translation: bool = True
    """Whether the model can write English of speech in another language."""


class RecognitionPoolSection(PoolSection):
    """A group of like workers that write down speech, and the engine behind them."""

    backend: Literal["faster_whisper", "openai", "fake"]
    """What kind of engine it is."""
    slots: int = Field(default=1, ge=1, le=256)
    """How many sounds one worker listens to at once."""
    url: str | None = None
    """For `openai`: the engine's address with its version segment."""
    model_file: str | None = None
    """For `faster_whisper`: a folder that `callboard models` knows, or a path to one with a CTranslate2 model."""
    threads: int | None = Field(default=None, ge=1)
    """For `faster_whisper`: processor threads of each slot; left out, what the engine chooses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """For `faster_whisper`: where the model runs."""
    beam_size: int = Field(default=1, ge=1, le=10)
    """For `faster_whisper`: how many readings are followed at once; more are slower and hear a little better."""
    segment_timeout_s: float = Field(default=60.0, gt=0)
    """The longest that an engine may take from one segment to the next."""
    watchdog_timeout_s: float = Field(default=30.0, ge=6)
    """How long an engine may ignore the order to stop a job before its worker ends, to be restarted."""


class SttSection(Section):
    """Pools that write down speech, the models they serve, and how much they listen to."""

    pools: dict[Name, RecognitionPoolSection] = Field(default_factory=dict)
    models: dict[str, RecognitionModelSection] = Field(default_factory=dict)
    default_model: str | None = None
    """The model of requests that name none."""
    max_upload_bytes: int = Field(default=25 * 1024 * 1024, ge=1024, le=100 * 1024 * 1024)
    """The largest file of a request."""
    max_audio_s: float = Field(default=3600.0, ge=1, le=6 * 3600)
    """The longest sound of a request."""
    hold_slice_ms: int = Field(default=30_000, ge=1000, le=600_000)
    """How much sound is held until a worker knows how long it is."""
    drain_timeout_s: float = Field(default=30.0, gt=0)
    """How long running requests may go on after the order to stop."""
