"""Units of measure in words; the words of every language, singular and plural, are CLDR's."""

import re
from decimal import Decimal
from functools import cache

from babel import Locale
from babel.units import UnknownUnitError, format_compound_unit, format_unit

from callboard_tts.domain.tables import listed, pairs

_UNITS = pairs(
    "km=length-kilometer|m=length-meter|cm=length-centimeter|mm=length-millimeter|µm=length-micrometer|"
    "nm=length-nanometer|mi=length-mile|yd=length-yard|ft=length-foot|in=length-inch|kg=mass-kilogram|g=mass-gram|"
    "mg=mass-milligram|µg=mass-microgram|t=mass-tonne|lb=mass-pound|oz=mass-ounce|l=volume-liter|L=volume-liter|"
    "ml=volume-milliliter|cl=volume-centiliter|dl=volume-deciliter|gal=volume-gallon|fl oz=volume-fluid-ounce|"
    "tsp=volume-teaspoon|tbsp=volume-tablespoon|km/h=speed-kilometer-per-hour|kph=speed-kilometer-per-hour|"
    "mph=speed-mile-per-hour|m/s=speed-meter-per-second|kn=speed-knot|°C=temperature-celsius|"
    "°F=temperature-fahrenheit|K=temperature-kelvin|°=angle-degree|s=duration-second|sec=duration-second|"
    "min=duration-minute|h=duration-hour|hr=duration-hour|ms=duration-millisecond|µs=duration-microsecond|"
    "ns=duration-nanosecond|wk=duration-week|mo=duration-month|yr=duration-year|km²=area-square-kilometer|"
    "m²=area-square-meter|cm²=area-square-centimeter|ha=area-hectare|sq ft=area-square-foot|sq mi=area-square-mile|"
    "ft²=area-square-foot|m³=volume-cubic-meter|cm³=volume-cubic-centimeter|km³=volume-cubic-kilometer|"
    "Hz=frequency-hertz|kHz=frequency-kilohertz|MHz=frequency-megahertz|GHz=frequency-gigahertz|kB=digital-kilobyte|"
    "KB=digital-kilobyte|MB=digital-megabyte|GB=digital-gigabyte|TB=digital-terabyte|PB=digital-petabyte|"
    "kbit=digital-kilobit|Mbit=digital-megabit|Gbit=digital-gigabit|W=power-watt|kW=power-kilowatt|MW=power-megawatt|"
    "GW=power-gigawatt|hp=power-horsepower|V=electric-volt|mA=electric-milliampere|Ω=electric-ohm|"
    "kWh=energy-kilowatt-hour|J=energy-joule|kJ=energy-kilojoule|cal=energy-calorie|kcal=energy-kilocalorie|"
    "Pa=pressure-pascal|hPa=pressure-hectopascal|kPa=pressure-kilopascal|psi=pressure-pound-force-per-square-inch|"
    "atm=pressure-atmosphere|ppm=concentr-permillion"
)
_ALIASES = pairs(
    "lbs=lb|kgs=kg|KG=kg|Kg=kg|mL=ml|secs=sec|mins=min|hrs=hr|wks=wk|mos=mo|yrs=yr|km2=km²|m2=m²|cm2=cm²|m3=m³|"
    "cm3=cm³|km3=km³|ft2=ft²|kmh=km/h|MPH=mph|KM=km|º=°|ºC=°C|ºF=°F|μm=µm|μg=µg|μs=µs|किमी=km|किग्रा=kg|"
    "किमी/घंटा=km/h|kms=km"
)
_RATES = pairs("bps=bit|kbps=kbit|mbps=Mbit|Mbps=Mbit|Gbps=Gbit|Mbit/s=Mbit|MB/s=MB")
_PER = {"h": "duration-hour", "s": "duration-second", "min": "duration-minute"}
_NOT_ENGLISH = frozenset({"t", "in"})
"""Symbols that are words or letters in English; `in` is handled where no word can stand."""
_FEMININE = {"es": re.compile(r"[^\s]*(?:a|as)$"), "it": re.compile(r"[^\s]*(?:a|e)$")}
_FEMININE_NAMES = {
    "fr": listed("heure minute seconde milliseconde microseconde nanoseconde semaine année tonne livre once"),
    "pt": listed("hora semana tonelada libra onça milha jarda polegada caloria quilocaloria atmosfera"),
}
MAX_COUNTED = 18
"""Longer numbers are many without counting."""
_ITALIAN_UNO = re.compile(r"(?:s[^aeiou\s]|z|ps|gn|y)")


@cache
def unit_pattern(language: str) -> str:
    """An alternation of the symbols that follow a number in a language, longest first."""
    symbols = {*_UNITS, *_ALIASES, *_RATES} - (_NOT_ENGLISH if language == "en" else {"in", "mo", "mi", "yr", "wk"})
    if language == "fr":
        symbols.discard("h")
    alternatives = "|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True))
    return rf"(?:{alternatives})"


@cache
def unit_name(symbol: str, language: str, *, plural: bool) -> str:
    """The words for a unit, without the number; the symbol itself where CLDR lacks the unit."""
    try:
        return _name(symbol, language, 2 if plural else 1)
    except (UnknownUnitError, KeyError, ValueError):
        return symbol


def _name(symbol: str, language: str, count: int) -> str:
    symbol = _ALIASES.get(symbol, symbol)
    if symbol in _RATES:
        unit = _UNITS.get(_RATES[symbol], "digital-bit")
        said = format_compound_unit(count, unit, denominator_unit="duration-second", length="long", locale=language)
        said = said or ""
    else:
        said = format_unit(count, _UNITS[symbol], length="long", locale=language)
    return re.sub(r"^\d+[\s\xa0]*", "", said).replace("\xa0", " ").replace("-", " ")


def measured(number: str, symbol: str, language: str, *, value: str | None = None) -> str:
    """A number in words or digits with its unit in words; `value` is the number that decides singular or plural."""
    counted = value or number
    singular = _is_singular(counted, language)
    name = unit_name(symbol, language, plural=not singular)
    if number in {"1", "2"} and language in {"es", "fr", "it", "pt"}:
        number = counted_by(number, name, language)
    return f"{number} {name}"


def counted_by(number: str, noun: str, language: str) -> str:
    """The number 1, or 2 in Portuguese, in the gender of the noun that it counts."""
    first = noun.partition(" ")[0]
    if language in _FEMININE_NAMES:
        feminine = first.removesuffix("s") in _FEMININE_NAMES[language]
    else:
        feminine = language in _FEMININE and bool(_FEMININE[language].fullmatch(first))
    if number == "1":
        if language == "it":
            return "una" if feminine else "uno" if _ITALIAN_UNO.match(first) else "un"
        return {"es": ("un", "una"), "fr": ("un", "une"), "pt": ("um", "uma")}[language][feminine]
    return "duas" if number == "2" and language == "pt" and feminine else number


def unit_phrase(number: str, symbol: str, language: str) -> str:
    """A number with its unit, in the order of the language: Chinese says `every hour 5 kilometres`."""
    symbol = _ALIASES.get(symbol, symbol)
    if symbol not in _UNITS:
        return f"{number}{symbol}"
    said = format_unit(2, _UNITS[symbol], length="long", locale=language)
    return re.sub(r"[\s\xa0]+", "", said).replace("2", number, 1)


def _is_singular(number: str, language: str) -> bool:
    """Whether CLDR counts a number as one; decimals that are written matter, as in `1.0 kilometers`."""
    if len(number) > MAX_COUNTED or not re.fullmatch(r"\d+(?:\.\d+)?", number):
        return False
    return Locale.parse(language).plural_form(Decimal(number)) == "one"
