"""Says in one line why a package or its native code cannot be loaded, and what to do about it."""

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager

_SHARED_OBJECT = r"(?P<library>[^\s:]+\.so[^\s:]*)"
_MISSING = re.compile(rf"^{_SHARED_OBJECT}: cannot open shared object file: No such file")
_NOT_EXECUTABLE = re.compile(
    rf"^{_SHARED_OBJECT}: (?:failed to map segment from shared object|.*Operation not permitted)"
)
_TOO_OLD = re.compile(r"^(?P<old>\S+): version [`'](?P<version>[^`']+)' not found \(required by (?P<library>[^)]+)\)")
_OTHER = re.compile(rf"^{_SHARED_OBJECT}: (?P<reason>.+)")

_SUPPLIERS = {
    "libgomp.so": "install the system package libgomp1",
    "libstdc++.so": "install the system package libstdc++6",
    "libgcc_s.so": "install the system package libgcc-s1",
    "libcuda.so": "give the container a GPU, or install NVIDIA's driver",
    "libnvidia-ml.so": "give the container a GPU, or install NVIDIA's driver",
    "libcudart.so": "use the image's flavour for GPUs",
    "libcublas.so": "use the image's flavour for GPUs",
    "libcudnn.so": "use the image's flavour for GPUs",
}
"""Who supplies a library, by the beginning of its name."""


@contextmanager
def explained_imports(service: str) -> Generator[None]:
    """Ends the process with that line where what a service imports cannot be loaded."""
    try:
        yield
    except ImportError as error:
        line = load_failure(error)
        if line is None:
            raise
        sys.exit(f"callboard {service}: {line}")


def load_failure(error: BaseException) -> str | None:
    """Returns the line for the operator if an error, or what caused it, is about loading a package or a library."""
    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        cause = causes.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, ModuleNotFoundError):
            return f"the package {cause.name} is missing; install it, or use an image that has it"
        # The loader's own errors carry their text alone, unlike those of files.
        if isinstance(cause, ImportError | OSError | RuntimeError) and (line := _explained(str(cause))):
            return line
        if isinstance(cause, BaseExceptionGroup):
            causes += cause.exceptions
        causes += [cause.__context__ if not cause.__suppress_context__ else None, cause.__cause__]
    return None


def _explained(text: str) -> str | None:
    if found := _MISSING.match(text):
        name = found["library"]
        supplier = next((remedy for start, remedy in _SUPPLIERS.items() if name.startswith(start)), None)
        return f"the library {name} is missing; {supplier or 'install the system package that has it'}"
    if found := _NOT_EXECUTABLE.match(text):
        return f"the library {found['library']} is where nothing may be executed; mount that folder without noexec"
    if found := _TOO_OLD.match(text):
        return f"the library {found['library']} needs {found['version']} of {found['old']}; use a newer system"
    if found := _OTHER.match(text):
        return f"the library {found['library']} cannot be loaded: {found['reason']}; reinstall its package"
    return None
