"""Finds the file of a model in a repository of a hub that speaks Hugging Face's API."""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import PurePosixPath

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.models.downloads import Download
from callboard_cli.models.sources import HUB, HUB_VARIABLE, READ_TIMEOUT_S

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_QUANTIZATION = "Q4_K_M"
MAX_LISTING_BYTES = 16 * 1024 * 1024
SHOWN_FILES = 12
NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w./-]+)?")
"""`owner/repository`, or with a quantization or file behind a colon."""
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def find(name: str, environ: Mapping[str, str] = os.environ) -> Download:
    """Finds the GGUF file that `owner/repository[:QUANTIZATION or FILE]` names.

    Raises:
        CommandError: the hub or the repository cannot be read, or no single file is meant.
    """
    repository, _, wanted = name.partition(":")
    hub = (environ.get(HUB_VARIABLE) or HUB).rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if (token := environ.get(TOKEN_VARIABLE)) else {}
    digests = _listing(hub, repository, headers)
    chosen = choose(repository, list(digests), wanted)
    url = f"{hub}/{repository}/resolve/main/{urllib.parse.quote(chosen)}"
    return Download(url, PurePosixPath(chosen).name, digests[chosen], headers)


def choose(repository: str, names: list[str], wanted: str) -> str:
    """The file of a repository that is meant; raises CommandError where none or several are."""
    models = sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())
    whole = [name for name in models if not _SPLIT.search(name)]
    if wanted.lower().endswith(".gguf"):
        found = [name for name in whole if wanted in {name, PurePosixPath(name).name}]
    else:
        mark = re.compile(rf"(?<![a-z0-9]){re.escape(wanted or DEFAULT_QUANTIZATION)}(?![a-z0-9_])", re.IGNORECASE)
        found = [name for name in whole if mark.search(PurePosixPath(name).name)]
    if len(found) == 1:
        return found[0]
    if not models:
        raise CommandError(f"models: {repository} has no GGUF file", ExitCode.DOWNLOAD_FAILED)
    shown = ", ".join(whole[:SHOWN_FILES]) or "only files in parts, which llama.cpp's gguf-split joins"
    what = f"no single file for {wanted or DEFAULT_QUANTIZATION!r}"
    raise CommandError(
        f"models: {repository}: {what}; name one as {repository}:FILE; there are {shown}", ExitCode.USAGE
    )


def _listing(hub: str, repository: str, headers: Mapping[str, str]) -> dict[str, str | None]:
    """The files of a repository, each with the SHA-256 that the hub knows of it."""
    request = urllib.request.Request(f"{hub}/api/models/{repository}?blobs=true", headers=dict(headers))  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S) as reply:  # noqa: S310
            answer = json.loads(reply.read(MAX_LISTING_BYTES))
        return {str(entry["rfilename"]): (entry.get("lfs") or {}).get("sha256") for entry in answer["siblings"]}
    except urllib.error.HTTPError as error:
        error.close()
        hint = f"; set {TOKEN_VARIABLE} where it asks for an account" if error.code in {401, 403} else ""
        raise CommandError(
            f"models: {repository}: the hub answered {error.code}{hint}", ExitCode.DOWNLOAD_FAILED
        ) from None
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"models: {repository}: the hub cannot be read ({type(error).__name__}); {HUB_VARIABLE} names another one",
            ExitCode.DOWNLOAD_FAILED,
        ) from None
