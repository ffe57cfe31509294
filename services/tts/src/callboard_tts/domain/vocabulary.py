"""The words of each language for signs, sums of money, dates and times."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from callboard_tts.domain.tables import listed, pairs


@dataclass(frozen=True, slots=True)
class Currency:
    """The names of a currency and of its hundredth part, for one and for several."""

    one: str
    many: str
    cent: str = ""
    cents: str = ""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How one language says what is written with signs and digits."""

    language: str
    decimal_mark: str
    decimal: str
    signs: Mapping[str, str]
    """Mathematical and other signs."""
    address: Mapping[str, str]
    """The marks of e-mail addresses, links and file names."""
    currencies: Mapping[str, Currency]
    cents_join: str
    scales: Mapping[str, str]
    scale_join: str
    """What stands between a scale and the currency: `5 millones de euros`."""
    to: str
    date: str
    first_day: str
    hour: str
    """A full hour, with `{h}`."""
    minutes: str
    """An hour and minutes, with `{h}` and `{m}`."""
    fractions: Mapping[int, tuple[str, str]]
    """Names of fractions by denominator, for one and for several parts."""
    over: str
    number: str
    version: str
    abbreviations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Abbreviations without their last full stop, in small letters."""
    before_names: tuple[str, ...] = ()
    """Abbreviations that stand before a name or a number only."""


_MATH = listed("+ − × ÷ = ± < > ≤ ≥ ≠ ≈ % ‰ & @ # ² ³ √ ∞ ^")
_ADDRESS = listed(". @ / - _ : ? = & # + ~ %")


def _signs(words: str) -> dict[str, str]:
    return dict(zip(_MATH, words.split("|"), strict=True))


def _address(words: str) -> dict[str, str]:
    return dict(zip(_ADDRESS, words.split("|"), strict=True))


def _fractions(names: str) -> dict[int, tuple[str, str]]:
    """The names of halves, thirds and so on, each for one part and for several."""
    return {below: (one, many) for below, (one, many) in enumerate((listed(name) for name in names.split("|")), 2)}


ENGLISH = Vocabulary(
    language="en",
    decimal_mark=".",
    decimal="point",
    signs=_signs(
        "plus|minus|times|divided by|equals|plus or minus|less than|greater than|less than or equal to|"
        "greater than or equal to|not equal to|approximately|percent|per mille|and|at|hash|squared|cubed|"
        "the square root of|infinity|to the power of"
    ),
    address=_address("dot|at|slash|dash|underscore|colon|question mark|equals|ampersand|hash|plus|tilde|percent"),
    currencies={
        "$": Currency("dollar", "dollars", "cent", "cents"),
        "€": Currency("euro", "euros", "cent", "cents"),
        "£": Currency("pound", "pounds", "penny", "pence"),
        "¥": Currency("yen", "yen"),
        "₹": Currency("rupee", "rupees", "paisa", "paise"),
        "₩": Currency("won", "won"),
    },
    cents_join="and",
    scales=pairs(
        "k=thousand|K=thousand|M=million|m=million|mn=million|bn=billion|b=billion|B=billion|T=trillion|tn=trillion|"
        "thousand=thousand|million=million|billion=billion|trillion=trillion"
    ),
    scale_join=" ",
    to="to",
    date="{month} {day}, {year}",
    first_day="first",
    hour="{h} o'clock",
    minutes="{h} {m}",
    fractions={2: ("half", "halves"), 4: ("quarter", "quarters")},
    over="over",
    number="number",
    version="version",
)

SPANISH = Vocabulary(
    language="es",
    decimal_mark=",",
    decimal="coma",
    signs=_signs(
        "más|menos|por|entre|igual a|más menos|menor que|mayor que|menor o igual que|mayor o igual que|distinto de|"
        "aproximadamente|por ciento|por mil|y|arroba|almohadilla|al cuadrado|al cubo|raíz cuadrada de|infinito|"
        "elevado a"
    ),
    address=_address(
        "punto|arroba|barra|guion|guion bajo|dos puntos|signo de interrogación|igual|y|almohadilla|más|tilde|por ciento"
    ),
    currencies={
        "$": Currency("un dólar", "dólares", "un centavo", "centavos"),
        "€": Currency("un euro", "euros", "un céntimo", "céntimos"),
        "£": Currency("una libra", "libras", "un penique", "peniques"),
        "¥": Currency("un yen", "yenes"),
        "₹": Currency("una rupia", "rupias", "una paisa", "paisas"),
        "₩": Currency("un won", "wons"),
    },
    cents_join="con",
    scales=pairs("mil=mil|millón=millón|millones=millones|M=millones|k=mil|K=mil|mil millones=mil millones"),
    scale_join=" de ",
    to="a",
    date="{day} de {month} de {year}",
    first_day="primero",
    hour="{h} en punto",
    minutes="{h} y {m}",
    fractions=_fractions(
        "medio medios|tercio tercios|cuarto cuartos|quinto quintos|sexto sextos|séptimo séptimos|octavo octavos|"
        "noveno novenos|décimo décimos"
    ),
    over="sobre",
    number="número",
    version="versión",
    abbreviations=pairs(
        "sr=señor|sra=señora|srta=señorita|dr=doctor|dra=doctora|d=don|dña=doña|prof=profesor|profa=profesora|"
        "ud=usted|uds=ustedes|vd=usted|etc=etcétera|pág=página|págs=páginas|p. ej=por ejemplo|núm=número|"
        "av=avenida|avda=avenida|art=artículo|cap=capítulo|vol=volumen|tel=teléfono|aprox=aproximadamente|"
        "ee. uu=Estados Unidos|ee.uu=Estados Unidos|a. c=antes de Cristo|d. c=después de Cristo|sto=santo|sta=santa|"
        "s=siglo|gral=general|lic=licenciado|ing=ingeniero|arq=arquitecto|izq=izquierda|dcha=derecha|máx=máximo|mín=mínimo"
    ),
    before_names=listed("s sr sra srta dr dra d dña prof profa gral lic ing arq sto sta av avda núm pág"),
)

FRENCH = Vocabulary(
    language="fr",
    decimal_mark=",",
    decimal="virgule",
    signs=_signs(
        "plus|moins|fois|divisé par|égale|plus ou moins|inférieur à|supérieur à|inférieur ou égal à|"
        "supérieur ou égal à|différent de|environ|pour cent|pour mille|et|arobase|dièse|au carré|au cube|"
        "racine carrée de|l'infini|puissance"
    ),
    address=_address(
        "point|arobase|barre oblique|tiret|tiret bas|deux points|point d'interrogation|égale|et|dièse|plus|tilde|"
        "pour cent"
    ),
    currencies={
        "$": Currency("un dollar", "dollars", "un cent", "cents"),
        "€": Currency("un euro", "euros", "un centime", "centimes"),
        "£": Currency("une livre", "livres", "un penny", "pence"),
        "¥": Currency("un yen", "yens"),
        "₹": Currency("une roupie", "roupies", "un paisa", "paisas"),
        "₩": Currency("un won", "wons"),
    },
    cents_join="et",
    scales=pairs(
        "mille=mille|million=million|millions=millions|milliard=milliard|milliards=milliards|M=millions|k=mille|"
        "K=mille|Md=milliards|Mds=milliards"
    ),
    scale_join=" de ",
    to="à",
    date="{day} {month} {year}",
    first_day="premier",
    hour="{h} heures",
    minutes="{h} heures {m}",
    fractions={2: ("demi", "demis"), 3: ("tiers", "tiers"), 4: ("quart", "quarts")},
    over="sur",
    number="numéro",
    version="version",
    abbreviations=pairs(
        "m=monsieur|mm=messieurs|mme=madame|mmes=mesdames|mlle=mademoiselle|dr=docteur|pr=professeur|me=maître|"
        "etc=et cetera|p. ex=par exemple|cf=confer|av. j.-c=avant Jésus-Christ|apr. j.-c=après Jésus-Christ|"
        "st=saint|ste=sainte|bd=boulevard|av=avenue|tél=téléphone|vol=volume|chap=chapitre|art=article|env=environ|"
        "max=maximum|min=minimum|n°=numéro|no=numéro|p=page|pp=pages"
    ),
    before_names=listed("m mm mme mmes mlle dr pr me st ste bd av no p pp art vol chap"),
)

ITALIAN = Vocabulary(
    language="it",
    decimal_mark=",",
    decimal="virgola",
    signs=_signs(
        "più|meno|per|diviso|uguale|più o meno|minore di|maggiore di|minore o uguale a|maggiore o uguale a|diverso da|"
        "circa|per cento|per mille|e|chiocciola|cancelletto|al quadrato|al cubo|radice quadrata di|infinito|elevato a"
    ),
    address=_address(
        "punto|chiocciola|barra|trattino|trattino basso|due punti|punto interrogativo|uguale|e|cancelletto|più|tilde|"
        "per cento"
    ),
    currencies={
        "$": Currency("un dollaro", "dollari", "un centesimo", "centesimi"),
        "€": Currency("un euro", "euro", "un centesimo", "centesimi"),
        "£": Currency("una sterlina", "sterline", "un penny", "penny"),
        "¥": Currency("uno yen", "yen"),
        "₹": Currency("una rupia", "rupie", "una paisa", "paise"),
        "₩": Currency("un won", "won"),
    },
    cents_join="e",
    scales=pairs(
        "mila=mila|milione=milione|milioni=milioni|miliardo=miliardo|miliardi=miliardi|mln=milioni|mld=miliardi|"
        "M=milioni|k=mila|K=mila"
    ),
    scale_join=" di ",
    to="a",
    date="{day} {month} {year}",
    first_day="primo",
    hour="{h} in punto",
    minutes="{h} e {m}",
    fractions={2: ("mezzo", "mezzi")},
    over="su",
    number="numero",
    version="versione",
    abbreviations=pairs(
        "sig=signor|sig.ra=signora|sig.na=signorina|sigg=signori|dott=dottor|dott.ssa=dottoressa|prof=professor|"
        "prof.ssa=professoressa|ing=ingegner|avv=avvocato|arch=architetto|geom=geometra|on=onorevole|ecc=eccetera|"
        "pag=pagina|pagg=pagine|es=esempio|p. es=per esempio|ad es=ad esempio|art=articolo|cap=capitolo|vol=volume|"
        "tel=telefono|n=numero|nr=numero|a.c=avanti Cristo|d.c=dopo Cristo|v.le=viale|p.zza=piazza|ca=circa|"
        "max=massimo|min=minimo|fig=figura"
    ),
    before_names=listed(
        "sig sig.ra sig.na sigg dott dott.ssa prof prof.ssa ing avv arch geom on n nr pag cap art vol fig ca"
    ),
)

PORTUGUESE = Vocabulary(
    language="pt",
    decimal_mark=",",
    decimal="vírgula",
    signs=_signs(
        "mais|menos|vezes|dividido por|igual a|mais ou menos|menor que|maior que|menor ou igual a|maior ou igual a|"
        "diferente de|aproximadamente|por cento|por mil|e|arroba|cerquilha|ao quadrado|ao cubo|raiz quadrada de|"
        "infinito|elevado a"
    ),
    address=_address(
        "ponto|arroba|barra|hífen|sublinhado|dois pontos|ponto de interrogação|igual|e|cerquilha|mais|til|por cento"
    ),
    currencies={
        "R$": Currency("um real", "reais", "um centavo", "centavos"),
        "$": Currency("um dólar", "dólares", "um centavo", "centavos"),
        "€": Currency("um euro", "euros", "um centavo", "centavos"),
        "£": Currency("uma libra", "libras", "um pêni", "pence"),
        "¥": Currency("um iene", "ienes"),
        "₹": Currency("uma rupia", "rupias", "uma paisa", "paisas"),
        "₩": Currency("um won", "wons"),
    },
    cents_join="e",
    scales=pairs(
        "mil=mil|milhão=milhão|milhões=milhões|bilhão=bilhão|bilhões=bilhões|mi=milhões|bi=bilhões|M=milhões|k=mil|K=mil"
    ),
    scale_join=" de ",
    to="a",
    date="{day} de {month} de {year}",
    first_day="primeiro",
    hour="{h} horas",
    minutes="{h} e {m}",
    fractions=_fractions(
        "meio meios|terço terços|quarto quartos|quinto quintos|sexto sextos|sétimo sétimos|oitavo oitavos|nono "
        "nonos|décimo décimos"
    ),
    over="sobre",
    number="número",
    version="versão",
    abbreviations=pairs(
        "sr=senhor|sra=senhora|srta=senhorita|dr=doutor|dra=doutora|prof=professor|profa=professora|profª=professora|"
        "etc=etcétera|pág=página|págs=páginas|d=dom|p. ex=por exemplo|ex=exemplo|av=avenida|r=rua|art=artigo|"
        "cap=capítulo|vol=volume|"
        "tel=telefone|núm=número|a.c=antes de Cristo|d.c=depois de Cristo|gen=general|eng=engenheiro|ltda=limitada|"
        "aprox=aproximadamente|máx=máximo|mín=mínimo|sto=santo|sta=santa"
    ),
    before_names=listed("sr sra srta dr dra d prof profa av r gen eng sto sta pág cap art vol"),
)

HINDI = Vocabulary(
    language="hi",
    decimal_mark=".",
    decimal="दशमलव",
    signs=_signs(
        "जमा|ऋण|गुणा|भाग|बराबर|जमा या घटा|से कम|से अधिक|से कम या बराबर|से अधिक या बराबर|बराबर नहीं|लगभग|प्रतिशत|"
        "प्रति हज़ार|और|ऐट|हैश|का वर्ग|का घन|का वर्गमूल|अनंत|की घात"
    ),
    address=_address("डॉट|ऐट|स्लैश|डैश|अंडरस्कोर|कोलन|प्रश्न चिह्न|बराबर|और|हैश|प्लस|टिल्ड|प्रतिशत"),
    currencies={
        "₹": Currency("1 रुपया", "रुपये", "1 पैसा", "पैसे"),
        "$": Currency("1 डॉलर", "डॉलर", "1 सेंट", "सेंट"),
        "€": Currency("1 यूरो", "यूरो", "1 सेंट", "सेंट"),
        "£": Currency("1 पाउंड", "पाउंड", "1 पेंस", "पेंस"),
        "¥": Currency("1 येन", "येन"),
        "₩": Currency("1 वॉन", "वॉन"),
    },
    cents_join="और",
    scales=pairs("हज़ार=हज़ार|लाख=लाख|करोड़=करोड़|अरब=अरब"),
    scale_join=" ",
    to="से",
    date="{day} {month} {year}",
    first_day="1",
    hour="{h} बजे",
    minutes="{h} बजकर {m} मिनट",
    fractions={2: ("आधा", "आधे"), 3: ("तिहाई", "तिहाई"), 4: ("चौथाई", "चौथाई")},
    over="बटा",
    number="नंबर",
    version="वर्शन",
    abbreviations=pairs("डॉ=डॉक्टर|श्री=श्री|प्रो=प्रोफ़ेसर|कि.मी=किलोमीटर|कि.ग्रा=किलोग्राम|रु=रुपये|सं=संख्या"),
    before_names=("डॉ", "प्रो"),
)

VOCABULARIES = {
    vocabulary.language: vocabulary for vocabulary in (ENGLISH, SPANISH, FRENCH, ITALIAN, PORTUGUESE, HINDI)
}
