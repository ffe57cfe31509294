"""Chooses the sound of English words that are spelled alike, by the words around them.

A word is respelled so that espeak-ng, which knows one of its sounds, says the other. Rules of context cost 0.1 ms for
a sentence; a part-of-speech tagger would cost 170 MB of memory.
"""

import re
from collections.abc import Callable

from callboard_tts.domain.tables import listed

_TO = (
    r"(?:to|will|would|can|could|shall|should|may|might|must|don't|didn't|doesn't|won't|can't|cannot|not|"
    r"never|please|let's|let us|help|we'll|I'll|you'll|they'll|he'll|she'll)"
)
_WHO = r"(?:I|you|we|they|who|people|to|and then)"
_THE = (
    r"(?:the|a|an|this|that|these|those|your|my|his|her|our|their|its|all|every|each|both|any|it|them|me|him|"
    r"us|more|less)"
)
_HAVE = (
    r"(?:have|has|had|having|'ve|'d|was|were|been|be|being|is|are|get|gets|got|well|widely|I've|you've|"
    r"we've|they've|just|already|never|ever)"
)
_PAST = (
    r"(?:yesterday|last (?:night|week|month|year|summer|winter|spring|time|monday|tuesday|wednesday|thursday|friday|"
    r"saturday|sunday)|ago|earlier|once|in (?:1\d|20)\d\d|when (?:I|he|she|we|they|you) (?:was|were)|before bed|"
    r"then he|"
    r"then she|aloud to (?:him|her|us|them|me)|and (?:wept|cried|laughed|smiled|loved|liked|hated|enjoyed|thought|said|"
    r"knew|found|learned|learnt))"
)

_RULES: tuple[tuple[str, str], ...] = (
    # The verb with a voiced end; "close" beside a place or a person is the adjective.
    (rf"(?:(?<=\b)(?:{_TO}) |(?:^|[.!?;,:\"“] ?|\band )(?:please )?)(close)(?= (?:{_THE}|down|up|out|off)\b)", "cloze"),
    (rf"\b(?:{_TO}|{_WHO}) (close)(?! (?:to|by|friends?|enough|relatives?|behind)\b)(?=\W|$)", "cloze"),
    (
        r"\b(?:doors?|shops?|stores?|banks?|eyes|windows|offices|markets) (close)(?= (?:at|on|early|late|in|"
        r"behind)\b|[.,;!?]|$)",
        "cloze",
    ),
    (rf"\b(?:{_HAVE}) (?:not |also |always |all |only )?(read)(?= |[.,;!?]|$)(?!-)", "red"),
    (r"\b(?:he|she|it|who|nobody|everyone|everybody|someone) (read)(?= |[.,;!?]|$)", "red"),
    (rf"\b(?:I|you|we|they|[A-Z][a-z]{{1,15}}) (read)(?= [^.!?;]{{0,80}}?\b{_PAST}\b)", "red"),
    (
        r"(?:yesterday|last (?:night|week|month|year)|ago|once|when I was [a-z ]{1,20}),? (?:I|we|they|you) (read)\b",
        "red",
    ),
    (
        r"\b(lead)(?=[- ](?:pipes?|paints?|poisoning|pencils?|bullets?|acid|glass|weights?|shot|ores?|mines?|"
        r"batter(?:y|ies)|solder|"
        r"levels?|exposure|ions?|content|apron|balloon|lined|free)\b)",
        "led",
    ),
    (
        r"\b(?:of|from|contains?|containing|with|like|heavy as|into|melted|molten|and|or) (lead)(?=[.,;!?]|$| "
        r"(?:and|or|in) "
        r"(?:zinc|copper|iron|mercury|tin|silver|the (?:water|paint|pipes|blood|soil))\b)",
        "led",
    ),
    (r"\b(?:zinc|copper|tin|mercury|arsenic|silver) (?:and|or) (lead)\b", "led"),
    (r"\b(?:is|was) (?:made of|a) (lead)(?= (?:pipe|weight|bullet))", "led"),
    (r"^(lead)(?= is (?:a|an|very|toxic|heavy|poisonous|soft|used)\b)", "led"),
    (r"\b(?:a|the|this|that|his|her|my|your|our|their|some|more|no|every|in|for|with|of) (live)(?= [a-z])", "lyve"),
    (
        r"\b(live)(?= (?:music|shows?|concerts?|bands?|streams?|streaming|broadcasts?|audiences?|events?|"
        r"performances?|coverage|feeds?|"
        r"tv|television|wires?|recordings?|albums?|ammunition|chats?|demos?|updates?|animals?|bait|stock)\b)",
        "lyve",
    ),
    (
        r"\b(?:to|can|could|will|would|must|may|might|should|not|n't|I|you|we|they|who|people|still|where|and) (live)"
        r"(?! (?:music|shows?|concerts?|bands?|streams?|broadcasts?|tv|television|coverage|audiences?))(?=\W|$)",
        "liv",
    ),
    (
        r"\b(?:he|she|it|who|she still|he still|[A-Z][a-z]+|mother|father|sister|brother|friend|family|man|"
        r"woman|that|which|and) "
        r"(?:also |still |now |never )?(lives)(?= (?:in|on|at|with|here|there|near|by|alone|next|across|down|up|"
        r"abroad|under|for|"
        r"\d|(?:one|two|three|four|five|six|seven|eight|nine|ten|a|an|just|about|far|\w+ (?:miles?|hours?|"
        r"minutes?|kilometers?))\b)|[.,;!?]|$)",
        "livz",
    ),
    (r", (lives)(?= (?:in|on|at|with|here|there|near|\d|\w+ (?:miles?|kilometers?|minutes?|hours?))\b)", "livz"),
    (rf"\b(?:{_TO}|{_WHO}) (wind)(?= (?:{_THE}|down|back|around|through|up)\b)", "wined"),
    (
        r"(?:^|[.!?;,] |\band )(wind)(?= (?:the (?:clock|watch|rope|yarn|wool|thread|cord|string|toy|cable)|it)\b)",
        "wined",
    ),
    (
        r"\b(?:he|she|I|we|they|it|road|path|river|trail|stairs|snake|was|were|had|have|has|string|bandage|"
        r"clock) (wound)"
        r"(?= (?:up|down|back|around|round|through|along|its|his|her|their|the (?:clock|watch|rope|yarn|string|"
        r"cord|bandage|tape)|"
        r"tightly|tight)\b)",
        "wownd",
    ),
    (rf"\b(?:{_TO}|{_WHO}|n't) (tear)(?= |[.,;!?]|$)(?! (?:gas|drop|duct))", "tare"),
    (r"\b(tear)(?= (?:up|down|apart|off|out|open|through|it|them|the|this|that|his|her|your|along)\b)", "tare"),
    (
        r"\b(?:wear and|a|the) (tear)(?= (?:in (?:the|my|his|her|your|its|their) (?:fabric|shirt|dress|jeans|"
        r"pants|paper|sleeve|cloth|"
        r"curtain|sail|net|muscle|ligament|tendon|page|wall|seam))\b)|(?<=wear and )(tear)\b",
        "tare",
    ),
    (r"\b(?:he|she|it|who) (tears)(?= (?:up|down|apart|off|out|open|through|it|them|the|his|her|at)\b)", "tairs"),
    (
        rf"\b(?:{_TO}|{_WHO}) (bow)(?= (?:down|out|to|before|your|his|her|my|their|and|low|politely|deeply)\b|"
        rf"[.,;!?]|$)",
        "bough",
    ),
    (r"(?:^|[.!?;,] )(bow)(?= (?:down|before|to|your)\b)", "bough"),
    (
        r"\b(?:takes?|took|taking|deep|slight|polite|little|final) (?:a |another |his |her |their )?(?:deep |"
        r"slight |final |last )?(bow)\b",
        "bough",
    ),
    (
        r"\b(?:the|ship's|boat's|from|at) (bow)(?= of (?:the|a|his|her) (?:ship|boat|vessel|canoe|ferry|yacht)"
        r"\b)|(?:ship's|boat's) (bow)\b",
        "bough",
    ),
    (
        rf"(?:^|[.!?;:,\"“] ?|\b(?:{_TO}|{_WHO}|and|or|then|just|also|always|often|only|n't|ll|d) )(use)(?= "
        rf"(?:{_THE}|to|of)\b)(?! of\b)",
        "uze",
    ),
    (rf"\b(?:{_TO}|{_WHO}|just|also|always|often|only) (use)(?! of\b)(?=\W|$)", "uze"),
    (r"\b(?:he|she|it|who|which|that|[a-z]+er|[A-Z][a-z]+) (uses)(?= )(?! (?:of|for)\b)", "uzes"),
    (r"(?:^|[.!?;,] |\b(?:to|please|will|can) )(excuse)(?= (?:me|us|my|him|her|them|the|your)\b)", "excuze"),
    (
        r"\b(minute)(?= (?:details?|amounts?|particles?|quantit(?:y|ies)|differences?|changes?|traces?|fractions?)\b)",
        "my newt",
    ),
    (
        r"\b(?:he|she|I|we|they|it|you|and) (dove)(?= (?:into|in|off|under|down|deep|headfirst|for|from|"
        r"straight|right)\b)",
        "dohve",
    ),
    (
        r"\b(bass)(?= (?:fishing|boats?|fillets?)\b)|\b(?:sea|striped|largemouth|smallmouth|grilled|fried|"
        r"caught a|catch a) (bass)\b",
        "basse",
    ),
    (rf"\b(?:{_TO}) (desert)(?= (?:{_THE})\b)", "dessert"),
    (
        r"\b(?:quite|very|perfectly|not|feels?|felt|feeling|seems?|seemed|looks?|looked|am|'m|'re|'s|be|is|was|"
        r"are|were) (content)"
        r"(?= (?:with|to)\b|[.,;!?]|$)",
        "contentt",
    ),
    (
        r"\b(?:fresh|local|organic|farm|seasonal|the|their|our|of) (produce)(?= (?:aisle|section|market|stand|"
        r"department)\b|[.,;!?]|$)",
        "prohduce",
    ),
    (r"\b(?:my|your|his|her|their|a|the|our|updated|this) (resume)(?= |[.,;!?]|$)", "rezzamay"),
    (r"\b(refuse)(?= (?:bins?|bags?|collection|heap|dump|collectors?)\b)", "reffuce"),
    (rf"\b(?:{_TO}) (abuse)\b", "abuze"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), respelled) for pattern, respelled in _RULES)
_WORDS = frozenset(
    listed(
        "close read lead live lives wind wound tear tears bow use uses excuse minute dove bass desert content produce "
        "resume refuse abuse"
    )
)
_WORD = re.compile(r"[A-Za-z]+")


def respelled(text: str) -> str:
    """Respells the heteronyms of an English text that its rules recognise."""
    present = _WORDS.intersection(word.lower() for word in _WORD.findall(text))
    if not present:
        return text
    for pattern, respelling in _COMPILED:
        text = pattern.sub(_replacing(respelling), text)
    return text


def _replacing(respelling: str) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        group = next(index for index, word in enumerate(match.groups(), 1) if word is not None)
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:start] + respelling + match[0][end:]

    return replace
