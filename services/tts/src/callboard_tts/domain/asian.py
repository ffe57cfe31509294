"""Reads Chinese and Japanese texts.

Chinese numbers become characters, because their reading depends on what they count. Japanese ones stay digits, which
Open JTalk reads with the right counter. WeTextProcessing's grammars do the same at 0.4 ms a character, which would
block the event loop for a second on a long text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from babel.numbers import get_currency_name

from callboard_tts.domain.numbers import ASCII_DIGITS, Rule
from callboard_tts.domain.tables import pairs
from callboard_tts.domain.units import unit_pattern, unit_phrase

_DIGITS = "零一二三四五六七八九"
_PHONE_DIGITS = "零幺二三四五六七八九"
_KANA_DIGITS = ("ゼロ", "いち", "に", "さん", "よん", "ご", "ろく", "なな", "はち", "きゅう")
_NUMBER = r"\d+(?:\.\d+)?"
_END = r"(?!\d|\.\d)"


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one language says what is written with signs and digits, and its rules."""

    language: str
    number: Callable[[str], str]
    digits: Callable[[str], str]
    phone: Callable[[str], str]
    year: Callable[[str], str]
    signs: dict[str, str]
    currencies: dict[str, str]
    percent: str
    fraction: str
    hour: str
    minute: str
    second: str
    morning: str
    afternoon: str
    score: str
    to: str
    minus: str
    dot: str
    at: str
    group: str

    @property
    def is_chinese(self) -> bool:
        """Whether numbers become characters."""
        return self.language == "zh"

    def rules(self) -> tuple[Rule, ...]:
        """All rules, in order."""
        return (*self._address_rules(), *self._time_rules(), *self._amount_rules(), *self._sign_rules())

    def _address_rules(self) -> tuple[Rule, ...]:
        """Grouped numbers, addresses and phone numbers."""
        return (
            Rule(re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])"), lambda match: match[0].replace(",", "")),
            Rule(
                re.compile(
                    r"(?<![\w.@-])[A-Za-z][\w.-]{0,63}@(?:[A-Za-z][\w-]{0,62}\.){1,4}[a-z]{2,10}(?![\w@])", re.ASCII
                ),
                self._address,
            ),
            Rule(
                re.compile(
                    r"(?<![\w.@-])(?:[A-Za-z][\w-]{0,62}\.){1,4}(?:com|cn|org|net|jp|io|dev|ya?ml|json|txt|pdf|py)(?![\w@])",
                    re.ASCII,
                ),
                self._address,
            ),
            Rule(
                re.compile(rf"(?<![\d.])(?:1[3-9]\d{{9}}|0\d{{1,3}}-\d{{1,4}}-?\d{{4,8}}|400-?\d{{3}}-?\d{{4}}){_END}"),
                self._phone,
                ASCII_DIGITS,
            ),
            Rule(
                re.compile(r"(?<=[打号码是])(?<!\d号)(\d{3,8})(?![\d.%％]|[个只条人元名年月日次天万亿])"),
                self._spoken_code,
                "打号码",
            ),
        )

    def _time_rules(self) -> tuple[Rule, ...]:
        """Dates, versions, scores and times of day."""
        return (
            Rule(
                re.compile(r"(?<![\d/.-])(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?![\d/-]|\.\d)"), self._date, ASCII_DIGITS
            ),
            Rule(
                re.compile(r"(?<![\d/.-])(0\d|[12]\d|3[01])[-/.](0[1-9]|1[0-2])[-/.]((?:19|20)\d\d)(?![\d/-])"),
                self._day_first,
                ASCII_DIGITS,
            ),
            Rule(
                re.compile(r"(?<![\d/.-])((?:19|20)\d\d)[-/.](0[1-9]|1[0-2])(?![\d/-])"),
                lambda match: self._month_of(match[1], match[2]),
                ASCII_DIGITS,
            ),
            Rule(
                re.compile(r"(?<![\d/.-])(0[1-9]|1[0-2])[-/.]((?:19|20)\d\d)(?![\d/-])"),
                lambda match: self._month_of(match[2], match[1]),
                ASCII_DIGITS,
            ),
            Rule(re.compile(r"(?<![\d/.-])(0[1-9])[-/.](0[1-9]|[12]\d|3[01])(?![\d/-])"), self._short_date, "0"),
            *(
                ()
                if self.is_chinese
                else (
                    Rule(
                        re.compile(
                            r"(?<![\d/.-])(1[0-2]|[1-9])[/-](3[01]|[12]\d|[1-9])(?=から|まで|に|の|は|です|、|と)(?!の[0-9])"
                        ),
                        self._short_date,
                        ASCII_DIGITS,
                    ),
                )
            ),
            Rule(re.compile(r"(?<!\d)(\d{4})(?=年)"), lambda match: self.year(match[1]), "年"),
            Rule(re.compile(r"(?<!\d)(\d)0(?=年代)"), lambda match: self.number(f"{match[1]}0"), "年"),
            Rule(
                re.compile(r"(?<!\d)(\d\d)(?=后)(?!后[天年])"),
                lambda match: self.digits(match[1]) if self.is_chinese else match[1],
                "后",
            ),
            Rule(
                re.compile(r"(?<!\d)(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])"),
                lambda match: self.dot.join(self.digits(part) for part in match[1].split(".")),
                ".",
            ),
            Rule(
                re.compile(r"(?<![\d.])(\d{1,4}(?:\.\d{1,4}){2,5})(?![\d.])"),
                lambda match: "点".join(self.number(part) for part in match[1].split(".")),
                ".",
            ),
            Rule(
                re.compile(r"((?:比分|スコア)\D{0,4})(\d{1,3})\s?[-–—:：]\s?(\d{1,3})(?!\d)"),
                lambda match: f"{match[1]}{self.number(match[2])}{self.score}{self.number(match[3])}",
                "比ス",
            ),
            Rule(re.compile(r"(?<=[:：]\d\d)\s?[-–~～]\s?(?=\d{1,2}[:：]\d\d)"), self.to, ":："),
            Rule(
                re.compile(
                    r"(?:([AP]M)\s?)?(?<![\d:：.])(\d{1,2})[:：](\d{2})(?:[:：](\d{2}))?(?![\d:：])(?:\s?([ap]\.?m\.?))?",
                    re.IGNORECASE,
                ),
                self._clock,
                ":：",
            ),
            Rule(re.compile(r"(?<![\d:：])(\d{1,3})[:：](\d{1,3})(?![\d:：])"), self._between(self.score), ":："),
        )

    def _amount_rules(self) -> tuple[Rule, ...]:
        """Sums, shares, measures and ranges."""
        sign = "|".join(re.escape(sign) for sign in sorted(self.currencies, key=len, reverse=True))
        units = unit_pattern(self.language)
        return (
            Rule(
                re.compile(rf"(?<![A-Za-z])(USD|EUR|GBP|JPY|CNY|HKD|KRW|CAD|AUD|CHF)\s?({_NUMBER})([万亿億]?)"),
                self._coded,
                ASCII_DIGITS,
            ),
            Rule(re.compile(rf"({sign})\s?({_NUMBER})([万亿億千百]{{0,2}})"), self._money, "$€£¥￥"),
            Rule(re.compile(rf"({_NUMBER})([万亿億千百]{{0,2}})\s?({sign})"), self._money_after, "$€£¥￥"),
            Rule(re.compile(rf"(?:({_NUMBER})[%％]?[-–~～])?({_NUMBER})\s?[%％]"), self._percent, "%％"),
            Rule(re.compile(r"(?<![\d/])(\d{1,4})\s?/\s?(\d{1,4})(?![\d/])"), self._fraction, "/"),
            Rule(
                re.compile(
                    rf"((?<![A-Za-z0-9)）-])[-−])?(?<![\d.])({_NUMBER})\s?({units})(?![A-Za-z²³/°])"
                    rf""
                ),
                self._measure,
                ASCII_DIGITS,
            ),
            Rule(re.compile(rf"(?<![\d.])({_NUMBER})\s?[~～〜]\s?({_NUMBER})"), self._between(self.to), "~～〜"),
        )

    def _sign_rules(self) -> tuple[Rule, ...]:
        """Mathematical signs, and the numbers that are left."""
        minus = "减" if self.is_chinese else "マイナス"
        return (
            Rule(re.compile(r"(?<=[\w)])\s?-\s?(?=\d[\d.]{0,20}\s?[=＝])"), minus, "=＝"),
            Rule(
                re.compile(r"(?<![\d.A-Za-z-])(\d{1,3})[-–—](\d{1,3})(?=[，。！？、,.!?\s]|$)"),
                self._between(self.score),
                "-–—",
            ),
            Rule(re.compile(r"(?<![\d.A-Za-z-])(\d{1,8})[-–—](\d{1,8})(?![\d-])"), self._between(self.to), "-–—"),
            Rule(re.compile(r"(?<![A-Za-z0-9)）-])[-−](?=\d)"), self.minus, "-−"),
            Rule(re.compile("[-−](?=\\d)"), minus, "−"),
            Rule(re.compile(r"\s?<=\s?"), self.signs["≤"], "<"),
            Rule(re.compile(r"\s?>=\s?"), self.signs["≥"], ">"),
            *(
                Rule(re.compile(rf"\s?{re.escape(mark)}\s?"), said, mark)
                for mark, said in self.signs.items()
                if mark not in "<>+="
            ),
            *(
                Rule(re.compile(rf"(?<=[\w)）])\s?{re.escape(mark)}\s?(?=[-\w(（√])"), self.signs[mark], mark)
                for mark in "<>+="
            ),
            Rule(re.compile(r"(?<!\w)\+(?=\d)"), self.signs["+"], "+"),
            Rule(
                re.compile(r"(?<![\d第.])2(?=[个位只条件本张次家天年间种杯双台辆岁点])"),
                "两" if self.is_chinese else "2",
                "2",
            ),
            Rule(
                re.compile(rf"(?<![A-Za-z\d.]){_NUMBER}"),
                lambda match: self.number(match[0]) if self.is_chinese else match[0],
                ASCII_DIGITS,
            ),
        )

    def _phone(self, match: re.Match[str]) -> str:
        groups: list[str] = re.findall(r"\d+", match[0])
        return self.group.join(self.phone(group) for group in groups)

    def _spoken_code(self, match: re.Match[str]) -> str:
        return self.phone(match[1]) if self.is_chinese else match[1]

    def _date(self, match: re.Match[str]) -> str:
        year, month, day = match[1], int(match[3]), int(match[4])
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return match[0]
        return f"{self.year(year)}年{self.number(str(month))}月{self.number(str(day))}日"

    def _month_of(self, year: str, month: str) -> str:
        return f"{self.year(year)}年{self.number(str(int(month)))}月"

    def _short_date(self, match: re.Match[str]) -> str:
        return f"{self.number(str(int(match[1])))}月{self.number(str(int(match[2])))}日"

    def _day_first(self, match: re.Match[str]) -> str:
        return f"{self._month_of(match[3], match[2])}{self.number(str(int(match[1])))}日"

    def _coded(self, match: re.Match[str]) -> str:
        name = get_currency_name(match[1], locale=self.language)
        return f"{self.number(match[2])}{match[3] or ''}{name}"

    def _clock(self, match: re.Match[str]) -> str:
        hour, minute, second = int(match[2]), int(match[3]), match[4]
        if hour > 24 or minute > 59:
            return match[0]
        half = (match[1] or match[5] or "").lower()
        said = (self.morning if half.startswith("a") else self.afternoon) if half else ""
        two = "两" if self.is_chinese and hour == 2 else self.number(str(hour))
        said += f"{two}{self.hour}"
        if minute or second:
            zero = "零" if self.is_chinese and minute < 10 else ""
            said += f"{zero}{self.number(str(minute))}{self.minute}"
        return said + (f"{self.number(str(int(second)))}{self.second}" if second else "")

    def _money(self, match: re.Match[str]) -> str:
        return f"{self.number(_short(match[2]))}{match[3] or ''}{self.currencies[match[1]]}"

    def _money_after(self, match: re.Match[str]) -> str:
        return f"{self.number(_short(match[1]))}{match[2] or ''}{self.currencies[match[3]]}"

    def _fraction(self, match: re.Match[str]) -> str:
        return self.fraction.format(n=self.number(match[1]), d=self.number(match[2]))

    def _percent(self, match: re.Match[str]) -> str:
        first = f"{self.percent.format(n=self.number(match[1]))}{self.to}" if match[1] else ""
        return first + self.percent.format(n=self.number(match[2]))

    def _measure(self, match: re.Match[str]) -> str:
        sign = self.minus if match[1] else ""
        return unit_phrase(sign + self.number(match[2]), match[3], self.language)

    def _between(self, joiner: str) -> Callable[[re.Match[str]], str]:
        number = self.number if self.is_chinese else _short_kanji
        return lambda match: f"{number(match[1])}{joiner}{number(match[2])}"

    def _address(self, match: re.Match[str]) -> str:
        said = {".": self.dot, "@": self.at, "/": "/", "-": "-", "_": "_"}
        parts: list[str] = re.findall(r"\d+|[A-Za-z]+|[.@/_-]", match[0])
        return " ".join(self.digits(part) if part.isdecimal() else said.get(part, part) for part in parts)


def chinese_number(text: str) -> str:
    """A whole or decimal number in Chinese characters."""
    whole, _, fraction = text.partition(".")
    if len(whole) > 16 or (len(whole) > 1 and whole[0] == "0"):
        said = "".join(_DIGITS[int(digit)] for digit in whole)
    else:
        said = _chinese_whole(int(whole or "0"))
    return said + ("点" + "".join(_DIGITS[int(digit)] for digit in fraction) if fraction else "")


def _chinese_whole(number: int) -> str:
    if number < 10:
        return _DIGITS[number]
    said = ""
    has_gap = False
    for unit, value in (("亿", 10**8), ("万", 10**4), ("千", 1000), ("百", 100), ("十", 10), ("", 1)):
        count, number = divmod(number, value)
        if not count:
            has_gap = bool(said)
            continue
        words = _chinese_whole(count) if value >= 10**4 else _DIGITS[count]
        words = "两" if words == "二" and unit in {"亿", "万", "千", "百"} and not (said and unit == "百") else words
        said += ("零" if has_gap else "") + words + unit
        has_gap = value >= 10**4 and bool(number) and number < value // 10
    return said.removeprefix("一") if said.startswith("一十") else said


def _hanzi(digits: str) -> Callable[[str], str]:
    return lambda text: "".join(digits[int(digit)] for digit in text if digit.isdecimal())


def _kana(text: str) -> str:
    return "".join(_KANA_DIGITS[int(digit)] for digit in text if digit.isdecimal())


def _short(number: str) -> str:
    """A number without the zeros at the end of its decimals."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def _short_kanji(text: str) -> str:
    """A Japanese number of one digit as a character, because a digit before `対` is read as a counter's."""
    return _DIGITS[int(text)] if len(text) == 1 else text


def _same(text: str) -> str:
    return text


_CHINESE = _Reader(
    language="zh",
    number=chinese_number,
    digits=_hanzi(_DIGITS),
    phone=_hanzi(_PHONE_DIGITS),
    year=_hanzi(_DIGITS),
    signs={
        "=": "等于",
        **pairs(
            "+=加|×=乘以|÷=除以|±=正负|≤=小于等于|≥=大于等于|<=小于|>=大于|≠=不等于|≈=约等于|&=和|√=根号|²=的平方|³=的立方"
        ),
    },
    currencies={
        "¥": "元",
        "￥": "元",
        "HK$": "港元",
        "US$": "美元",
        "A$": "澳元",
        "$": "美元",
        "€": "欧元",
        "£": "英镑",
    },
    percent="百分之{n}",
    fraction="{d}分之{n}",
    hour="点",
    minute="分",
    second="秒",
    morning="上午",
    afternoon="下午",
    score="比",
    to="到",
    minus="负",
    dot="点",
    at="艾特",
    group="，",
)
_JAPANESE = _Reader(
    language="ja",
    number=_same,
    digits=_kana,
    phone=_kana,
    year=_same,
    signs={
        "=": "イコール",
        **pairs(
            "+=プラス|×=かける|÷=わる|±=プラスマイナス|≤=小なりイコール|≥=大なりイコール|<=小なり|>=大なり|≠=ノットイコール|≈=ニアリーイコール|&=アンド|√=ルート|"
            "²=の二乗|³=の三乗"
        ),
    },
    currencies={"¥": "円", "￥": "円", "US$": "ドル", "$": "ドル", "€": "ユーロ", "£": "ポンド"},
    percent="{n}パーセント",
    fraction="{d}分の{n}",
    hour="時",
    minute="分",
    second="秒",
    morning="午前",
    afternoon="午後",
    score="対",
    to="から",
    minus="マイナス",
    dot="ドット",
    at="アットマーク",
    group="の",
)


def asian_rules(language: str) -> tuple[Rule, ...]:
    """All rules for Chinese or Japanese, in order."""
    return (_CHINESE if language == "zh" else _JAPANESE).rules()
