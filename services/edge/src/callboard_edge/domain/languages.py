"""Languages as people name them, and which voice speaks one."""

from collections.abc import Sequence

from callboard_contracts.workers import OfferedVoice

_NAMES: dict[str, str] = {
    "ar": "arabic العربية",
    "bg": "bulgarian български",
    "cs": "czech čeština",
    "da": "danish dansk",
    "de": "german deutsch",
    "el": "greek ελληνικά",
    "en": "english",
    "es": "spanish español castilian castellano",
    "fi": "finnish suomi",
    "fr": "french français",
    "he": "hebrew עברית",
    "hi": "hindi हिन्दी हिंदी",
    "hu": "hungarian magyar",
    "id": "indonesian indonesia",
    "it": "italian italiano",
    "ja": "japanese 日本語",
    "ko": "korean 한국어",
    "nb": "norwegian norsk bokmål",
    "nl": "dutch nederlands",
    "pl": "polish polski",
    "pt": "portuguese português",
    "ro": "romanian română",
    "ru": "russian русский",
    "sv": "swedish svenska",
    "th": "thai ไทย",
    "tr": "turkish türkçe",
    "uk": "ukrainian українська",
    "vi": "vietnamese",
    "zh": "chinese 中文 mandarin 普通话 汉语",
}
"""By ISO 639 code, the words that name a language in English and in itself."""
_CODES = {name: code for code, names in _NAMES.items() for name in names.split()} | {"no": "nb", "cmn": "zh"}


def language_tag(name: str) -> str:
    """The tag of a language that is called by its name or by a tag; what is unknown stays as it is, in small letters.

    A name may have more words, as in `Brazilian Portuguese`.
    """
    tag = name.strip().lower().replace("_", "-")
    base, dash, region = tag.partition("-")
    if base in _NAMES:
        return tag
    words = [_CODES[word] for word in tag.replace("(", " ").replace(")", " ").split() if word in _CODES]
    return words[-1] if words else f"{_CODES.get(base, base)}{dash}{region}"


def english_name(name: str) -> str:
    """A language's English name, or what it is called where that is unknown."""
    known = _NAMES.get(language_tag(name).partition("-")[0])
    return known.partition(" ")[0].capitalize() if known else name.strip()


def voice_for_language(voices: Sequence[OfferedVoice], language: str, preferred: str | None = None) -> str | None:
    """The voice that speaks a language: the preferred one if it does, else the first that does, else None.

    A voice without a tag speaks every language, as far as is known here. A tag with a region is met by that region
    first, and then by any.
    """
    tag = language_tag(language)
    base = tag.partition("-")[0]

    def closeness(voice: OfferedVoice) -> int:
        own = (voice.language or tag).lower()
        return 2 if own == tag or (tag == base and own.partition("-")[0] == base) else own.partition("-")[0] == base

    fitting = [voice for voice in voices if closeness(voice)]
    chosen = next((voice for voice in fitting if voice.name == preferred), None)
    return (chosen or max(fitting, key=closeness)).name if fitting else None
