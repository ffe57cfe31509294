"""Reads Chinese and Japanese texts by the grammars of WeTextProcessing."""

import re
from functools import cache
from typing import Protocol

_NEEDED = re.compile(r"[0-9０-９%％℃$¥￥€£≥≤±×÷]")
_SENTENCES = re.compile(r"[^。！？!?；;\n]{1,200}[。！？!?；;\n]?|[。！？!?；;\n]")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[,，]\d{3})+(?![\d,])")
_LONG = re.compile(r"\d{20,}")
_YUAN = re.compile(r"[¥￥]\s?")


class _Normalizer(Protocol):
    def normalize(self, text: str) -> str: ...


@cache
def _normalizer(language: str) -> _Normalizer:
    from wetext import Normalizer

    return Normalizer(lang=language, operator="tn")


def normalize_asian(text: str, language: str) -> str:
    """Writes out numbers, sums, dates, times and measures of a Chinese or Japanese text."""
    return "".join(_sentence(sentence, language) for sentence in _SENTENCES.findall(text))


def _sentence(text: str, language: str) -> str:
    if not _NEEDED.search(text):
        return text
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = _YUAN.sub("￥" if language == "zh" else "¥", text)
    text = _LONG.sub(lambda match: " ".join(match[0][at : at + 4] for at in range(0, len(match[0]), 4)), text)
    lead = text[: len(text) - len(text.lstrip())]
    trail = text[len(text.rstrip()) :]
    try:
        said = _normalizer(language).normalize(text.strip())
    except RuntimeError:
        return text
    return f"{lead}{said}{trail}"
