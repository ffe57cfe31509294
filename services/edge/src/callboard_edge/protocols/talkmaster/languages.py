"""The languages that scripts name: by their English name, their code, or their own name."""

_NAMES: dict[str, tuple[str, ...]] = {
    "ar": ("Arabic", "العربية"),
    "cs": ("Czech", "čeština"),
    "da": ("Danish", "dansk"),
    "de": ("German", "Deutsch"),
    "el": ("Greek", "ελληνικά"),
    "en": ("English",),
    "es": ("Spanish", "español"),
    "fi": ("Finnish", "suomi"),
    "fr": ("French", "français"),
    "he": ("Hebrew", "עברית"),
    "hi": ("Hindi", "हिन्दी", "हिंदी"),
    "hu": ("Hungarian", "magyar"),
    "it": ("Italian", "italiano"),
    "ja": ("Japanese", "日本語"),
    "ko": ("Korean", "한국어"),
    "nl": ("Dutch", "Nederlands"),
    "no": ("Norwegian", "norsk"),
    "pl": ("Polish", "polski"),
    "pt": ("Portuguese", "português"),
    "ro": ("Romanian", "română"),
    "ru": ("Russian", "русский"),
    "sv": ("Swedish", "svenska"),
    "tr": ("Turkish", "Türkçe"),
    "uk": ("Ukrainian", "українська"),
    "zh": ("Chinese", "中文"),
}
_CODES = {name.casefold(): code for code, names in _NAMES.items() for name in (code, *names)}


def language_code(name: str) -> str | None:
    """The code of a language that is named in one of these ways, with or without a region; None for another."""
    name = name.strip().casefold()
    return _CODES.get(name) or _CODES.get(name.replace("_", "-").partition("-")[0])


def english_name(name: str) -> str:
    """A language's English name, or what the client calls it."""
    code = language_code(name)
    return _NAMES[code][0] if code else name.strip()
