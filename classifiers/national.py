"""Numbers that states give to people: shapes, the checks that prove them, and the words that have to stand nearby.

A number without letters or an unusual shape proves little, even with a check digit: one order number in eleven passes
such a check. These need a word of context. Checks are those of python-stdnum, each imported when it is first needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of number. `shape` is an RE2 expression with the number in group 1 or as a whole. `check` is a module
    of python-stdnum or a function of this one; "" checks nothing. `words` (lower case) of which one has to
    stand near; none needed where empty. `score` without such a word, `near` with one."""

    shape: str
    check: str
    words: tuple[str, ...] = ()
    score: float = 0.0
    near: float = 1.0


_ID = (
    "national id",
    "identity number",
    "identity card",
    "id number",
    "id card",
    "id no",
    "personal number",
    "tax id",
    "tin ",
)

KINDS: tuple[Kind, ...] = (
    # A shape of their own, with letters or separators and a checksum: no word needed.
    Kind(r"(?i)\b([A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z])\b", "it.codicefiscale", (), 1.0),
    Kind(r"(?i)\b([XYZ]-?\d{7}-?[A-Z])\b", "es.nie", (), 0.95),
    Kind(r"(?i)\b(\d{8}-?[A-HJ-NP-TV-Z])\b", "es.dni", ("dni", "nif", "documento", "identi"), 0.7),
    Kind(r"\b([1-478] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2})\b", "fr.nir", (), 0.95),
    Kind(r"\b(\d{3}\.\d{3}\.\d{3}-\d{2})\b", "br.cpf", (), 1.0),
    Kind(r"\b(756\.\d{4}\.\d{4}\.\d{2})\b", "ch.ssn", (), 1.0),
    Kind(r"\b(\d{6}[-+]\d{4})\b", "se.personnummer", ("person", "pnr", "född"), 0.7),
    Kind(r"(?i)\b(\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y])\b", "fi.hetu", (), 0.95),
    Kind(r"\b(\d{6}-[1-4]\d{6})\b", "kr.rrn", (), 1.0),
    Kind(r"\b(\d{17}[0-9Xx])\b", "cn.ric", (), 1.0),
    Kind(r"(?i)\b([A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d)\b", "mx.curp", (), 1.0),
    Kind(r"(?i)\b(\d{1,2}\.\d{3}\.\d{3}-[0-9K])\b", "cl.rut", (), 0.95),
    Kind(r"\b(\d{6}/\d{3,4})\b", "cz.rc", ("rodné", "rodne", "r.č", "birth number"), 0.6),
    Kind(r"\b(\d-\d{4}-\d{5}-\d{2}-\d)\b", "th.pin", (), 1.0),
    Kind(r"\b(\d{2}\.\d{2}\.\d{2}[- ]\d{3}[.\- ]\d{2})\b", "be.nn", (), 1.0),
    Kind(r"\b([STFGM]\d{7}[A-Z])\b", "nric", (), 0.9),
    Kind(r"\b([A-Z]{1,2}\d{6}\([0-9A]\))", "hkid", (), 1.0),
    Kind(r"\b((?:[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]) ?\d{2} ?\d{2} ?\d{2} ?[A-D])\b", "nino",
         ("insurance", "nino", "ni n"), 0.5, 0.95),
    Kind(r"\b([A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z])\b", "in_.pan", ("pan", "income tax"), 0.5, 0.95),
    # Bare digits: a word has to say what they are.
    Kind(r"\b(\d{2} ?\d{3} ?\d{3} ?\d{3})\b", "de.idnr", ("steuer", "idnr", "identifikationsnummer", *_ID)),
    Kind(r"\b(\d{9}|\d{4}[. ]\d{2}[. ]\d{3})\b", "nl.bsn", ("bsn", "burgerservice", "sofi", "citizen service")),
    Kind(r"\b(\d{11})\b", "br.cpf", ("cpf", "cadastro")),
    Kind(r"\b(\d{4}[ -]?\d{4}[ -]?\d{4})\b", "in_.aadhaar", ("aadhaar", "aadhar", "adhaar", "uidai", "आधार")),
    Kind(r"\b(\d{3}[ -]?\d{3}[ -]?\d{4})\b", "gb.nhs", ("nhs", "national health")),
    Kind(r"\b(\d{11})\b", "pl.pesel", ("pesel",)),
    Kind(r"\b(\d{6}-?\d{4})\b", "dk.cpr", ("cpr", "personnummer")),
    Kind(r"\b(\d{6} ?\d{5})\b", "no.fodselsnummer", ("fødsel", "fodsel", "personnummer", "birth number")),
    Kind(r"\b(\d{3}[- ]?\d{3}[- ]?\d{3})\b", "ca.sin",
         ("social insurance", "sin ", "sin:", "sin#", "assurance sociale", "nas ")),
    Kind(r"\b(\d{3} ?\d{3} ?\d{2,3})\b", "au.tfn", ("tfn", "tax file")),
    Kind(r"\b(\d{13})\b", "za.idnr", ("south africa", "rsa id", *_ID)),
    Kind(r"\b(\d{11})\b", "tr.tckimlik", ("kimlik", "tckn", "tc no", "t.c.")),
    Kind(r"\b(\d{9})\b", "pt.nif", ("nif", "contribuinte", "fiscal")),
    Kind(r"\b(\d{13})\b", "ro.cnp", ("cnp", "numeric personal")),
    Kind(r"(?i)\b(\d{7}[A-W][ABWTX]?)\b", "ie.pps", ("pps", "personal public")),
    Kind(r"\b(\d{11})\b", "gr.amka", ("amka", "αμκα")),
    Kind(r"\b(\d{9})\b", "il.idnr", ("teudat", "zehut", "תעודת", "israel")),
    Kind(r"\b(\d{10})\b", "bg.egn", ("egn", "егн", "единен")),
    Kind(r"\b(\d{11})\b", "hr.oib", ("oib",)),
    Kind(r"\b(\d{11})\b", "ee.ik", ("isikukood", "asmens kodas", "personal code")),
    Kind(r"\b(\d{13})\b", "si.emso", ("emšo", "emso", "jmbg")),
    Kind(r"\b(\d{10})\b", "ua.rntrc", ("рнокпп", "іпн", "rnokpp", "ідентифікацій")),
    Kind(r"\b(\d{6}-?\d{2}-?\d{4})\b", "my.nric", ("mykad", "kad pengenalan", "nric", "no. ic", "ic number", "ic no")),
    Kind(r"\b(\d{16})\b", "id.nik", ("nik", "ktp", "kependudukan")),
    Kind(r"\b(\d{5}-?\d{7}-?\d)\b", "pk.cnic", ("cnic", "nadra", "شناختی")),
    Kind(r"\b(\d{4} ?\d{6})\b", "at.vnr", ("sozialversicherung", "svnr", "versicherungsnummer")),
    Kind(r"\b(\d{6}-?\d{4})\b", "is_.kennitala", ("kennitala",)),
    Kind(r"\b(\d{2}\.?\d{3}\.?\d{3})\b", "ar.dni", ("dni", "documento nacional")),
)  # fmt: skip


def holds(kind: Kind, number: str) -> bool:
    """Whether the checksum of `number` is right. Never raises."""
    if len(set(filter(str.isalnum, number))) < 3:
        return False
    own = _OWN.get(kind.check)
    if own is not None:
        return own(number)
    try:
        return bool(importlib.import_module(f"stdnum.{kind.check}").is_valid(number))
    except (ValueError, IndexError, KeyError, TypeError):
        return False


def _nric(number: str) -> bool:
    """Singapore."""
    total = sum(int(d) * w for d, w in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    first = number[0]
    total += {"T": 4, "G": 4, "M": 3}.get(first, 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "KLJNPQRTUWX"}.get(first, "XWUTRQPNMLK")
    return number[8] == (letters[10 - total % 11] if first == "M" else letters[total % 11])


def _hkid(number: str) -> bool:
    """Hong Kong."""
    body, check = number[:-3].rjust(8), number[-2]
    values = [36 if c == " " else int(c, 36) for c in body]
    total = sum(v * w for v, w in zip(values, range(9, 1, -1), strict=True))
    return (total + int(check, 16)) % 11 == 0


def _nino(number: str) -> bool:
    """United Kingdom: no checksum, but prefixes that are never given."""
    return number[:2] not in {"BG", "GB", "NK", "KN", "NT", "TN", "ZZ"}


_OWN: dict[str, Callable[[str], bool]] = {"nric": _nric, "hkid": _hkid, "nino": _nino}
