"""How one GGUF file is to be served, as the launch variables and flags of programs that did so before say it.

KoboldCpp's `KCPP_MODEL` and `KCPP_ARGS`, llama.cpp's `LLAMA_ARG_…`, text-generation-webui's `EXTRA_LAUNCH_ARGS` and
`CLI_ARGS`, and plain names such as `MODEL` and `N_CTX` are understood. Only what is known to have no effect on this
site is passed over; what would change what callers get is refused by its name.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from callboard_cli.failures import CommandError, ExitCode

MODEL, CONTEXT, THREADS, SLOTS = "model", "context_tokens", "threads", "slots"
PORT, HOST, PASSWORD, OUTPUT, QUEUE, NAME = "port", "host", "password", "max_output_tokens", "max_queued", "name"
NUMBERS = frozenset({CONTEXT, THREADS, SLOTS, PORT, OUTPUT, QUEUE})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FLAGS: Mapping[str, str] = {
    "--model": MODEL,
    "-m": MODEL,
    "--model_param": MODEL,
    "--model-url": MODEL,
    "--hf-repo": MODEL,
    "--contextsize": CONTEXT,
    "--ctx-size": CONTEXT,
    "--ctx_size": CONTEXT,
    "--n_ctx": CONTEXT,
    "-c": CONTEXT,
    "--threads": THREADS,
    "-t": THREADS,
    "--parallel": SLOTS,
    "-np": SLOTS,
    "--port": PORT,
    "--port_param": PORT,
    "--api-port": PORT,
    "--host": HOST,
    "--password": PASSWORD,
    "--api-key": PASSWORD,
    "--defaultgenamt": OUTPUT,
    "--n-predict": OUTPUT,
    "-n": OUTPUT,
    "--multiuser": QUEUE,
    "--alias": NAME,
    "-a": NAME,
}
"""What each flag sets."""
DEFAULT_QUEUE = 10
"""What KoboldCpp takes `--multiuser` alone for."""
VARIABLES: Mapping[str, str] = {
    "KCPP_MODEL": MODEL,
    "LLAMA_ARG_MODEL": MODEL,
    "LLAMA_ARG_MODEL_URL": MODEL,
    "LLAMA_ARG_HF_REPO": MODEL,
    "LLAMA_ARG_CTX_SIZE": CONTEXT,
    "LLAMA_ARG_N_PARALLEL": SLOTS,
    "LLAMA_ARG_THREADS": THREADS,
    "LLAMA_ARG_PORT": PORT,
    "LLAMA_ARG_HOST": HOST,
    "LLAMA_ARG_N_PREDICT": OUTPUT,
    "LLAMA_ARG_ALIAS": NAME,
    "LLAMA_API_KEY": PASSWORD,
    "MODEL": MODEL,
    "CONTEXT": CONTEXT,
    "CONTEXT_SIZE": CONTEXT,
    "CTX": CONTEXT,
    "N_CTX": CONTEXT,
    "N_THREADS": THREADS,
    "THREADS": THREADS,
}
"""What each variable sets."""
FLAG_VARIABLES = ("KCPP_ARGS", "EXTRA_LAUNCH_ARGS", "CLI_ARGS")
"""The variables that hold flags."""
WITHOUT_EFFECT = _words(
    "--api --autofit --batch-size --batchsize --blasbatchsize --blasthreads --cont-batching --cpu --debugmode "
    "--flash-attn --flashattention --foreground --gpulayers --highpriority --ignoremissing --jinja --listen "
    "--listen-host --listen-port --loader --lowvram --mlock --n-gpu-layers --no-mmap --no-webui --noavx2 "
    "--noblas --nofastforward --nommap --noshift --quiet --singleinstance --skiplauncher --smartcontext "
    "--tensor_split --ubatch-size --usecpu --useclblast --usecublas --usecuda --usehipblas --usemlock --usemmap "
    "--usevulkan --verbose --websearch -b -ngl -ub"
)
"""Flags that only change how another engine works: prompts are never logged, and the image has no use for a GPU."""
REFUSED_FLAGS = _words(
    "--admin --admindir --adminpassword --analyze --api-key-file --benchmark --chat-template --chat-template-file "
    "--chatcompletionsadapter --config --draftmodel --embeddingsmodel --embeddings --export --extensions "
    "--gendefaults --hordeconfig --hordegenlen --hordekey --hordemaxctx --hordemodelname --hordeworkername --lora "
    "--mmproj --model-dir --models-dir --model-draft --musicllm --nomodel --onready --overridekv "
    "--overridenativecontext "
    "--preloadstory --prompt --public-api --ratelimit --remotetunnel --reranking --ropeconfig --routermode "
    "--savedatafile --sdmodel --share --showgui --ssl --ssl-cert-file --ssl-key-file --ttsmodel --unpack "
    "--whispermodel --ws-cert --ws-key"
)
"""Flags whose effect callers would miss."""
SILENT_VARIABLES = _words(
    "KCPP_DONT_TUNNEL KCPP_DONT_UPDATE KCPP_DONT_REMOVE_MODELS LLAMA_ARG_BATCH LLAMA_ARG_CONT_BATCHING "
    "LLAMA_ARG_FLASH_ATTN LLAMA_ARG_JINJA LLAMA_ARG_MLOCK LLAMA_ARG_N_GPU_LAYERS LLAMA_ARG_NO_MMAP LLAMA_ARG_UBATCH"
)
"""Variables of the same kind."""
REFUSED_VARIABLES = (
    *("KCPP_IMGMODEL", "KCPP_MMPROJ", "KCPP_WHISPERMODEL", "KCPP_EMBEDMODEL", "KCPP_TTSMODEL", "KCPP_CONFIG_GIT"),
    *("LLAMA_ARG_MMPROJ", "LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE", "LLAMA_ARG_CHAT_TEMPLATE"),
)
IGNORED_PREFIXES = ("KCPP_", "LLAMA_ARG_")
"""Families of variables of which every member that is not understood is named."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What was asked for; None where nothing was said. `ignored` names what has no effect here."""

    model: str | None = None
    name: str | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    threads: int | None = None
    slots: int | None = None
    max_queued: int | None = None
    host: str | None = None
    port: int | None = None
    password: str | None = field(default=None, repr=False)
    ignored: tuple[str, ...] = ()


@dataclass(slots=True)
class _Asked:
    """What was said so far: each setting's value, and who said it."""

    values: dict[str, str] = field(default_factory=dict)
    said_by: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add(self, setting: str, value: str, source: str) -> None:
        if (before := self.values.setdefault(setting, value)) != value:
            found = "" if setting == PASSWORD else f": {before!r} and {value!r}"
            raise CommandError(f"{self.said_by[setting]} and {source} differ{found}; leave one out", ExitCode.USAGE)
        self.said_by.setdefault(setting, source)


def from_environment(environ: Mapping[str, str], given: Mapping[str, str | int | None]) -> Launch:
    """Reads the variables; `given` are options of the command line, which come first.

    Raises:
        CommandError: a value cannot be understood, two variables differ, or something cannot be done here.
    """
    asked = _Asked()
    for name, value in sorted(environ.items()):
        if not value.strip():
            continue
        if name in FLAG_VARIABLES:
            _read_flags(name, value, asked)
        elif name in REFUSED_VARIABLES:
            asked.refused.append(name)
        elif setting := VARIABLES.get(name):
            asked.add(setting, value.strip(), name)
        elif name.startswith(IGNORED_PREFIXES) and name not in SILENT_VARIABLES:
            asked.ignored.append(name)
    if asked.refused:
        raise CommandError(
            f"not possible here: {', '.join(asked.refused)} (docs/how-to/one-container.md says what is)", ExitCode.USAGE
        )
    numbers = {key: number for key in NUMBERS & set(asked.values) if (number := _number(asked, key))}
    slots = numbers.get(SLOTS)
    if CONTEXT in numbers and slots and "LLAMA" in asked.said_by[CONTEXT]:
        # llama.cpp shares its context out among its slots.
        numbers[CONTEXT] //= slots
    texts = {key: value for key, value in asked.values.items() if key not in NUMBERS}
    values: dict[str, Any] = {**texts, **numbers, **{key: value for key, value in given.items() if value is not None}}
    return Launch(**values, ignored=tuple(asked.ignored))


def _read_flags(variable: str, text: str, asked: _Asked) -> None:
    try:
        words = shlex.split(text)
    except ValueError:
        raise CommandError(f"{variable}: a quotation is not closed", ExitCode.USAGE) from None
    for flag, values in _flags(words):
        source = f"{flag} of {variable}"
        setting = FLAGS.get(flag)
        if flag in REFUSED_FLAGS:
            asked.refused.append(source)
        elif setting is None:
            # A list of those known to be harmless keeps the warning to what is news.
            asked.ignored += [] if flag in WITHOUT_EFFECT else [source]
        elif setting == QUEUE:
            asked.add(setting, values[0] if values else str(DEFAULT_QUEUE), source)
        elif len(values) != 1:
            raise CommandError(f"{source}: takes one value, found {len(values)}", ExitCode.USAGE)
        else:
            asked.add(setting, values[0], source)


def _flags(words: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Flags with what follows each; words before the first are the model and the port, as KoboldCpp takes them."""
    found: list[tuple[str, list[str]]] = []
    loose = iter(("--model_param", "--port_param"))
    for word in words:
        if word.startswith("-") and not word[1:].isdigit():
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else []))
        elif found and found[-1][0] not in ("--model_param", "--port_param"):
            found[-1][1].append(word)
        elif (flag := next(loose, "")) == "":
            raise CommandError(f"launch flags: {word!r} follows no flag", ExitCode.USAGE)
        else:
            found.append((flag, [word]))
    return found


def _number(asked: _Asked, setting: str) -> int | None:
    """The number that was said; None for 0 and -1, by which programs mean what they choose themselves."""
    text = asked.values[setting]
    if text in ("0", "-1"):
        return None
    if not text.isdecimal() or len(text) > 9:
        raise CommandError(f"{asked.said_by[setting]}: found {text[:40]!r}, allowed are whole numbers", ExitCode.USAGE)
    return int(text)
