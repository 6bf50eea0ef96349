"""Personal data in a text: addresses, numbers of accounts, cards, phones, papers and machines, dates of birth.

A shape is found by RE2; what has a checksum must pass it, and what has none needs an unusual shape or a word nearby
that says what it is. Nothing here knows names or street addresses: that needs a learned classifier. Scores: 1.0 where a
checksum validated a shape or context of its own, lower otherwise. Spans hold exactly the datum.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

import phonenumbers
from stdnum import bitcoin, iban, luhn
from stdnum.us import ssn

from . import national
from . import option_forms as form
from .base import Finding, Message
from .catalog import OptionError
from .matcher import Expression, Matcher, code_points, compile_once, encode, replace_surrogates
from .options import Options
from .secrets import chosen_labels, joined

RULES = "pii-1"
LABELS = frozenset(
    {
        "email",
        "phone",
        "card",
        "iban",
        "us_ssn",
        "national_id",
        "ip_address",
        "crypto_address",
        "passport",
        "birth_date",
    }
)
REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "BR", "IN", "AU", "JP", "CN", "MX", "SE", "CH", "PL", "ZA")
"""Countries whose numbers are known without a country code, in the order in which they are tried."""

NEAR = 60  # letters before a number in which a word of context counts
MOST_FINDINGS = 256
"""Findings of one kind in one text; the last one reaches to the end of the text, so that none is lost."""

Datum = tuple[int, int, float]
"""Start and end in code points, score."""
Judge = Callable[[str, int, int], Datum | None]
"""(text, start, end) of a candidate in code points -> what is personal in it, or None."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of datum, the first group of `shape` or all of it. `split` finds the candidates in a match where that
    may hold several. `words`: no text without any of them (lower case) can hold such a datum, which spares the rest of
    the work."""

    label: str
    shape: str
    judge: Judge
    split: Callable[[str, int, int], Iterator[tuple[int, int]]] | None = None
    words: tuple[str, ...] = ()


class PersonalData:
    """The classifier `pii`. Thread-safe. Raises Exhausted rather than miss anything."""

    inline = True

    def __init__(self, name: str, labels: frozenset[str] = LABELS, regions: Sequence[str] = REGIONS) -> None:
        self.name, self.labels = name, labels
        self._rules, self._matcher = _rules(tuple(regions))
        self._groups = [min(1, compile_once(rule.shape).groups) for rule in self._rules]
        facts = [RULES, sorted(labels), list(regions), [[rule.label, rule.shape] for rule in self._rules]]
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @staticmethod
    @cache
    def options() -> form.Declared:
        """What an author may write."""
        said = "Countries whose telephone numbers are known without a country code, like [US, GB]."
        return {
            "labels": form.listed("What to look for; all when left out.", LABELS),
            "regions": form.listed(said, phonenumbers.SUPPORTED_REGIONS, least=0),
        }

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        """See `options`. Raises OptionError."""
        Options(options, cls.options())
        regions = options.get("regions", REGIONS)
        if not isinstance(regions, list | tuple):
            raise OptionError("regions", "it is no list", "a list of countries, e.g. [US, GB]")
        for at, region in enumerate(regions):
            if not isinstance(region, str) or region not in phonenumbers.SUPPORTED_REGIONS:
                raise OptionError(f"regions.{at}", f"no region {region!r}", "two capital letters, e.g. GB; quote 'NO'")
        return cls(name, chosen_labels(options, LABELS), regions)

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        """Findings in message order; spans in code points. Of two that overlap, the surer one stays."""
        if len(messages) > 1 and not self._matcher.candidates(joined(messages)):
            return []
        findings: list[Finding] = []
        for index, message in enumerate(messages):
            data = encode(message.text)
            if hits := self._matcher.candidates(data):
                findings.extend(self._judge(index, replace_surrogates(message.text), data, sorted(hits)))
        return findings

    def _judge(self, message: int, text: str, data: bytes, hits: Sequence[int]) -> Iterator[Finding]:
        rules = self._rules
        if any(rules[hit].words for hit in hits):
            lower = text.lower()
            hits = [hit for hit in hits if not rules[hit].words or any(word in lower for word in rules[hit].words)]
        spans = {hit: [match.span(self._groups[hit]) for match in self._matcher.matches(hit, data)] for hit in hits}
        points = code_points(data, (offset for found in spans.values() for span in found for offset in span))
        kept: list[tuple[float, int, int, int]] = []  # minus score, rank, start, end
        for hit in hits:
            candidates = ((points[first], points[last]) for first, last in spans[hit])
            for count, (start, end, score) in enumerate(_data(rules[hit], text, candidates), 1):
                kept.append((-score, hit, start, len(text) if count == MOST_FINDINGS else end))
                if count == MOST_FINDINGS:
                    break
        if not kept:
            return
        taken = bytearray(len(text))
        chosen = []
        for minus, hit, start, end in sorted(kept):
            if taken.find(1, start, end) < 0:
                taken[start:end] = b"\1" * (end - start)
                chosen.append((start, end, rules[hit].label, -minus))
        for start, end, label, score in sorted(chosen):
            if label in self.labels:
                yield Finding(self.name, label, score, message, (start, end))


def _data(rule: Rule, text: str, candidates: Iterable[tuple[int, int]]) -> Iterator[Datum]:
    for start, end in candidates:
        for first, last in rule.split(text, start, end) if rule.split else ((start, end),):
            datum = rule.judge(text, first, last)
            if datum is not None:
                yield datum


def near(text: str, start: int, words: tuple[str, ...]) -> int:
    """Where the last of `words` (lower case, beginnings of words) stands before `start`; -1 for nowhere."""
    before = text[max(0, start - NEAR) : start].lower()
    places = [match.start() for match in _beginnings(words).finditer(before)]
    return places[-1] if places else -1


@cache
def _beginnings(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("(?<![a-z])(?:" + "|".join(map(re.escape, words)) + ")")


def _isolated(text: str, start: int, end: int) -> bool:
    """Whether no letter, digit or joining sign touches the number, which would make it part of something longer."""
    before, after = text[max(0, start - 1) : start], text[end : end + 2]
    if before.isalnum() or before in {"_", "#", "$", "€", "£"} or after[:1].isalnum() or after[:1] == "_":
        return False
    return not (before in {".", ",", "-", "/", "="} and text[max(0, start - 2) : start - 1].isdigit()) and not (
        after[:1] in {".", ",", "-", "/", "%"} and after[1:].isdigit()
    )


# -- judges -----------------------------------------------------------------------------------------------------------


def _email(text: str, start: int, end: int) -> Datum | None:
    while text[start] in "'.%+-":
        start += 1  # a quotation mark, or the sign before it
    address = text[start:end]
    local, _, domain = address.rpartition("@")
    if len(address) > 254 or ".." in address or not local or local.endswith("."):
        return None
    if domain.rpartition(".")[2].lower() in {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "py"}:
        return None  # picture@2x.png
    documented = re.fullmatch(r"(?:.*\.)?(?:example\.(?:com|org|net|edu)|test|example|invalid|localhost)", domain, re.I)
    return start, end, 0.6 if documented else 0.95


_IINS = (
    # first digits as a range, lengths: who issues what (ISO/IEC 7812)
    ("4", "4", (13, 16, 18, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("300", "305", (14, 16)),
    ("36", "36", (14,)),
    ("38", "39", (14, 16)),
    ("6011", "6011", (16, 17, 18, 19)),
    ("644", "659", (16, 17, 18, 19)),
    ("60", "60", (16,)),
    ("62", "62", (16, 17, 18, 19)),
    ("81", "82", (16,)),
    ("3528", "3589", (16, 17, 18, 19)),
    ("50", "50", (12, 13, 14, 15, 16, 17, 18, 19)),
    ("56", "69", (12, 13, 14, 15, 16, 17, 18, 19)),
    ("2131", "2131", (15,)),
    ("1800", "1800", (15,)),
    ("2200", "2204", (16,)),
    ("9792", "9792", (16,)),
)
_CARD_WORDS = (
    "card", "visa", "master", "amex", "discover", "credit", "debit", "karte", "carte", "tarjeta",
    "carta", "cartão", "payment", "cc ", "cc:", "pan ", "卡", "カード", "карт", "بطاقة", "कार्ड",
)  # fmt: skip


_USUAL = ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 4, 3])


def _cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The card numbers in a run of digit groups. In a long run, which may be a table, all groups must belong to cards,
    or a word must announce them."""
    groups = [(start + m.start(), start + m.end()) for m in re.finditer(r"\d+", text[start:end])]
    found: list[tuple[int, int]] = []
    used = at = 0
    while at < len(groups):
        digits, sizes = "", []
        for begin, until in groups[at : at + 6]:
            digits += text[begin:until]
            sizes.append(until - begin)
            if (len(sizes) == 1 or sizes in _USUAL) and _is_card(digits):
                found.append((groups[at][0], until))
                break
        else:
            at += 1
            continue
        used += len(sizes)
        at += len(sizes)
    if len(groups) <= 5 or used == len(groups) or near(text, start, _CARD_WORDS) >= 0:
        yield from found


def _card(text: str, start: int, end: int) -> Datum | None:
    if not _isolated(text, start, end):
        return None
    grouped = not text[start:end].isdigit()
    if grouped or near(text, start, _CARD_WORDS) >= 0:
        return start, end, 1.0
    return (start, end, 0.85) if end - start >= 14 else None


def _is_card(digits: str) -> bool:
    if (
        not 12 <= len(digits) <= 19
        or len(set(digits)) < 2
        or not any(len(digits) in lengths and low <= digits[: len(low)] <= high for low, high, lengths in _IINS)
    ):
        return False
    return bool(luhn.is_valid(digits))


_IBAN_LENGTHS = dict(
    re.findall(
        r"([A-Z]{2})(\d{2})",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18FR27GB22"
        "GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20"
        "MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26"
        "UA29VA22VG24XK20YE30",
    )
)


def _iban(text: str, start: int, end: int) -> Datum | None:
    """The candidate may run into the words behind it: the country says how long an IBAN is."""
    wanted = int(_IBAN_LENGTHS.get(text[start : start + 2].upper(), "0"))
    count = 0
    for at in range(start, end):
        count += text[at].isalnum()
        if count == wanted:
            if text[at + 1 : at + 2].isalnum():
                return None
            number = re.sub(r"[\s-]", "", text[start : at + 1])
            return (start, at + 1, 1.0) if iban.is_valid(number, check_country=False) else None
    return None


_SSN_WORDS = ("ssn", "social security", "social sec", "s.s.n")


def _ssn(text: str, start: int, end: int) -> Datum | None:
    number = text[start:end]
    known = near(text, start, _SSN_WORDS) >= 0
    if not _isolated(text, start, end) or (number.isdigit() and not known):
        return None
    digits = re.sub(r"\D", "", number)
    if not ssn.is_valid(f"{digits[:3]}-{digits[3:5]}-{digits[5:]}"):
        return None
    return start, end, 0.95 if known else 0.8


def _ip(text: str, start: int, end: int) -> Datum | None:
    before = text[max(0, start - 10) : start].lower()
    if ":" not in text[start:end]:
        if not _isolated(text, start, end) or before.endswith(_VERSION):
            return None
    elif text[start:end].count(":") < 3 or before[-1:].isalnum():
        return None
    try:
        address = ipaddress.ip_address(text[start:end])
    except ValueError:
        return None
    return start, end, 0.9 if address.is_global else 0.5


_VERSION = ("v", "version ", "version: ", "ver. ", "section ", "==", ">=")


def _bitcoin(text: str, start: int, end: int) -> Datum | None:
    address = text[start:end]
    if address[:2].lower() == "bc" and _bech32m(address.lower()):
        return start, end, 1.0
    return (start, end, 1.0) if bitcoin.is_valid(address) else None


def _bech32m(address: str) -> bool:
    """BIP 350, which python-stdnum does not know."""
    values = [3, 3, 0, 2, 3, *("qpzry9x8gf2tvdw0s3jn54khce6mua7l".find(letter) for letter in address[3:])]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, mask in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= mask if top >> bit & 1 else 0
    return check == 0x2BC830A3


def _always(score: float, text: str, start: int, end: int) -> Datum | None:
    return start, end, score


def _date(text: str, start: int, end: int) -> Datum | None:
    numbers = [int(n) for n in re.findall(r"\d+", text[start:end])]
    years = [n for n in numbers if n >= 32]
    if any(n > 99 and not 1880 <= n <= 2100 for n in years) or len(years) > 1:
        return None
    return start, end, 0.85


def _national(kind: national.Kind, text: str, start: int, end: int) -> Datum | None:
    known = bool(kind.words) and near(text, start, kind.words) >= 0
    score = kind.near if known else kind.score
    if score <= 0 or not _isolated(text, start, end) or not national.holds(kind, text[start:end]):
        return None
    return start, end, score


_PHONE_WORDS = (
    "phone", "tel", "call", "mobile", "cell", "fax", "whatsapp", "sms", "dial", "contact",
    "reach me", "reach us", "text me", "handy", "my number is", "answering", "messages to", "ring me", "móvil",
    "celular", "appel", "portable", "ruf", "mobil", "ligar", "numéro", "número de t",
    "numero di t", "desk:", "電話", "电话", "手机", "전화", "телефон", "тел.", "звон", "هاتف", "फोन",
    "फ़ोन",
)  # fmt: skip
_NOT_PHONE = (
    "order", "invoice", "account", "acct", "isbn", "issn", "ticket", "tracking", "serial", "case ",
    "version", "id:", "id ", "sku", "part n", "model", "uuid", "card", "iban", "ssn", "zip",
    "reference", "booking", "confirmation", "$", "€", "£", "timestamp", "date", "policy n",
    "license", "licence", "port ", "year", "number is",
)  # fmt: skip
_NANP = re.compile(r"(?:1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.\- ])[2-9]\d{2}[.\- ]\d{4}")
_GROUPED = re.compile(r"\(?0\d{1,4}\)?(?:[ \-/]\d{2,8}){1,4}")
_DATE_LIKE = re.compile(
    r"(?:19|20)\d\d[-/. ][01]?\d[-/. ][0-3]?\d(?: .*)?|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d(?: .*)?"
)
_EXTENSION = re.compile(r" ?(?:x|ext\.?) ?\d{1,6}$", re.IGNORECASE)


def _phone(regions: Sequence[str], text: str, start: int, end: int) -> Datum | None:
    whole = text[start:end].rstrip(" -./(")
    number = _EXTENSION.sub("", whole)
    end = start + len(whole)
    digits = sum(map(str.isdigit, number))
    if not 7 <= digits <= 15 or not _isolated(text, start, end) or _DATE_LIKE.fullmatch(number):
        return None
    abroad = number.lstrip("+0( ") if number.startswith(("+", "00", "(+")) else ""
    if len(abroad) >= 6 and _valid("+" + abroad, None):
        return start, end, 0.95
    score = _phone_score(regions, number, digits, text, start)
    return (start, end, score) if score else None


def _phone_score(regions: Sequence[str], number: str, digits: int, text: str, start: int) -> float:
    """How sure it is that a number without a country code is a phone's."""
    usual = _NANP.fullmatch(number)
    grouped = digits >= 9 and _GROUPED.fullmatch(number)
    known = near(text, start, _PHONE_WORDS)
    # Words for and against a phone number: the nearer one counts.
    if (known < 0 and not usual and not grouped) or near(text, start, _NOT_PHONE) > known:
        return 0.0
    if "/" in number and number[0] != "0":
        return 0.0
    if usual and _valid(number, "US"):
        return 0.9 if known >= 0 else 0.75
    if known >= 0 and (digits >= 9 or not number.isdigit()):
        if any(_valid(number, region) for region in regions):
            return 0.85
        return 0.0 if re.fullmatch(r"\d+(?:\.\d+)?", number) else 0.6
    return 0.55 if grouped and any(_valid(number, region) for region in regions) else 0.0


def _valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


# -- rules ------------------------------------------------------------------------------------------------------------

_LETTER = (
    r"0-9A-Za-z\x{c0}-\x{24f}\x{370}-\x{52f}"  # of scripts that part words: an address in Chinese text has two ends
)
_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|ene|abr|ago|dic|dez|mai|okt|fév|avr|juin|juil|août|déc|mär|gen|mag|"
    r"giu|lug|set|ott|fev|out)[a-zäéû]*\.?"
)
_DATE = (
    rf"(\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}|"
    rf"\d{{1,2}}(?:st|nd|rd|th|er|\.|º)? ?(?:of |de )?{_MONTH},? ?(?:de )?\d{{2,4}}|"
    rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? ?\d{{2,4}}|\d{{4}} ?[年년] ?\d{{1,2}} ?[月월] ?\d{{1,2}} ?[日일]|"
    rf"\d{{4}} {_MONTH} \d{{1,2}})"
)
_BORN = (
    r"(?:\bborn|birth ?da(?:te|y)|date of birth|\bdob\b|\bd\.o\.b\.?|\bgeboren|geburtsdatum|\bgeb\.|\bnée? le|"
    r"date de naissance|nacid[oa]|nacimiento|\bnat[oa] il|data di nascita|nascimento|nascid[oa]|geboortedatum|"
    r"födelsedatum|urodzen|дата рождения|родил|出生|生年月日|생년월일|تاريخ الميلاد|जन्म)"
)


@cache
def _rules(regions: tuple[str, ...]) -> tuple[tuple[Rule, ...], Matcher]:
    """All rules, in order of precedence between equal scores, and the matcher over their shapes."""
    rules = (
        Rule(
            "email",
            rf"[{_LETTER}._%+'\-]+@(?:[{_LETTER}\-]+\.)+[A-Za-z\x{{c0}}-\x{{24f}}\x{{370}}-\x{{52f}}]{{2,24}}",
            _email,
        ),
        Rule("iban", r"(?i)\b([A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,40})", _iban),
        Rule("card", r"\d(?:[ -]?\d){11,}", _card, _cards),
        Rule("us_ssn", r"\b(\d{3}[- ]\d{2}[- ]\d{4}|\d{9})\b", _ssn),
        *(
            Rule("national_id", kind.shape, partial(_national, kind), words=() if kind.score else kind.words)
            for kind in national.KINDS
        ),
        Rule("ip_address", r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", _ip),
        Rule("ip_address", r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3}|:)", _ip),
        Rule("crypto_address", r"\b(?:[13][a-km-zA-HJ-NP-Z1-9]{25,34}|(?i:bc1[02-9ac-hj-np-z]{11,71}))\b", _bitcoin),
        Rule("crypto_address", r"\b0x[0-9A-Fa-f]{40}\b", partial(_always, 0.8)),
        Rule(
            "passport",
            r"(?i)(?:passport|passeport|reisepass|pasaporte|passaporto|passaporte|paspoort|паспорт|护照|護照|パスポート|여권)"
            r"[^0-9\n]{0,24}?\b([A-Z]{0,2} ?\d{6,9}[A-Z]?)\b",
            partial(_always, 0.85),
        ),
        Rule("birth_date", rf"(?i){_BORN}[^0-9\n]{{0,24}}?{_DATE}", _date),
        Rule(
            "phone", r"(?:\+|\(\+?)?\d(?:[ ().\-/]{0,3}\d){6,14}(?: ?(?:x|ext\.?) ?\d{1,6})?", partial(_phone, regions)
        ),
    )
    return rules, Matcher([Expression(rule.shape) for rule in rules], heavy_program=1 << 20)
