"""The heads, and what a row of some kind says about each: 1, 0 or nothing (masked, no loss)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Label:
    """One head: what it means, and the roles of a message in which it was trained to be asked."""

    name: str
    roles: tuple[str, ...]
    meaning: str


PROMPT = ("user",)
OUTSIDE = ("tool_result",)
ANSWER = ("assistant",)
TALK = ("user", "assistant")

LABELS = (
    Label("injection", PROMPT, "tries to override, replace or extract the instructions of the application"),
    Label("injection_indirect", OUTSIDE, "text from outside that gives orders to the model that reads it"),
    Label("jailbreak", PROMPT, "a persona, frame or trick meant to make a model drop its rules"),
    Label(
        "harmful", PROMPT, "asks for something harmful or is itself hateful, threatening or obscene, of any category"
    ),
    Label("harmful_answer", ANSWER, "an answer that gives harmful help or is itself harmful, judged by its question"),
    Label("violence_weapons", TALK, "violence against people, weapons, explosives"),
    Label("self_harm", TALK, "suicide, self-injury, eating disorders"),
    Label("sexual", TALK, "sexual or erotic content"),
    Label("minors", TALK, "sexual exploitation or abuse of minors"),
    Label("hate", TALK, "hatred or contempt for a protected group"),
    Label("harassment", TALK, "insult, bullying, threats, defamation of a person"),
    Label("fraud", TALK, "scams, theft, forgery, financial crime, deception for gain"),
    Label("illegal_goods", TALK, "drugs, trafficking, illegal trade"),
    Label("privacy", TALK, "surveillance, doxxing, theft of personal data"),
    Label("cyber", TALK, "malware, intrusion, misuse of computers: its prohibited and its high dual-use tier"),
    Label(
        "cyber_prohibited",
        TALK,
        "help with an attack on somebody: malware that is to be used, intrusion without leave, theft of data or "
        "access, sabotage and outages, hiding from the victim or the police; no purpose makes it honest",
    ),
    Label(
        "cyber_dual_use_high",
        TALK,
        "offensive work that testers with leave do and attackers want as well: exploits, payloads, evasion of "
        "defences, credential attacks, lateral movement, with no victim named",
    ),
    Label(
        "cyber_dual_use_low",
        TALK,
        "security practice with little uplift: scans of one's own hosts, exercises, how a known attack works, analysis "
        "of samples; defence and plain administration are in no tier",
    ),
    Label("bio_chem", TALK, "chemical, biological, radiological or nuclear harm: prohibited and high dual-use tier"),
    Label(
        "bio_chem_prohibited",
        TALK,
        "making, getting, enhancing or releasing agents that kill or sicken many, or hiding it: chemical, biological, "
        "radiological and nuclear weapons; no purpose makes it honest",
    ),
    Label(
        "bio_chem_dual_use_high",
        TALK,
        "work of licensed laboratories that would also serve a weapon: enhancement, yield, stability and aerosols of "
        "dangerous agents, synthesis of very toxic or explosive compounds, with no ill purpose named",
    ),
    Label(
        "bio_chem_dual_use_low",
        TALK,
        "ordinary laboratory practice and how dangerous agents act or are handled safely; health, household and school "
        "questions are in no tier",
    ),
    Label("extremism", TALK, "terrorism, violent extremism, its praise or recruiting"),
)
NAMES = tuple(label.name for label in LABELS)
INDEX = MappingProxyType({name: place for place, name in enumerate(NAMES)})
CATEGORIES = NAMES[NAMES.index("violence_weapons") :]
TIERS: Mapping[str, tuple[str, str, str]] = {
    domain: (f"{domain}_prohibited", f"{domain}_dual_use_high", f"{domain}_dual_use_low")
    for domain in ("cyber", "bio_chem")
}
"""The tiers of a domain from the worst to the mildest. A text is in one of them or in none (benign). The domain's own
head is the union of the first two; of the last one it says nothing."""
ATTACKS = ("injection", "injection_indirect", "jailbreak")

# Where a source names one category, these others may be true as well: they are masked, all further ones are 0.
NEAR: Mapping[str, frozenset[str]] = {
    "violence_weapons": frozenset({"extremism", "illegal_goods", "bio_chem", "harassment", "hate"}),
    "self_harm": frozenset({"violence_weapons"}),
    "sexual": frozenset({"minors", "harassment"}),
    "minors": frozenset({"sexual", "violence_weapons", "harassment", "privacy"}),
    "hate": frozenset({"harassment", "extremism", "violence_weapons", "sexual"}),
    "harassment": frozenset({"hate", "privacy", "sexual", "violence_weapons"}),
    "fraud": frozenset({"cyber", "illegal_goods", "privacy"}),
    "illegal_goods": frozenset({"fraud", "bio_chem", "violence_weapons", "privacy"}),
    "privacy": frozenset({"cyber", "fraud", "harassment"}),
    "cyber": frozenset({"privacy", "fraud"}),
    "bio_chem": frozenset({"violence_weapons", "illegal_goods", "extremism"}),
    "extremism": frozenset({"violence_weapons", "hate", "bio_chem"}),
}

Targets = dict[str, float]


def _tiers_of(names: Iterable[str]) -> frozenset[str]:
    return frozenset(tier for name in names for tier in TIERS.get(name, ()))


def categories(named: Iterable[str]) -> Targets:
    """1 for each named category, nothing for those near to one, 0 for the rest. Empty: nothing about any. A tier
    speaks for its domain as well; a domain alone says nothing about its tiers."""
    chosen = set(named)
    near: set[str] = set()
    for domain, (prohibited, high, low) in TIERS.items():
        told = chosen & {prohibited, high, low}
        if domain in chosen and not told:
            near |= {prohibited, high, low}
        if told & {prohibited, high}:
            chosen.add(domain)
        elif low in told:
            near |= {domain} | NEAR[domain]
    beside = frozenset().union(*(NEAR.get(name, frozenset()) for name in chosen))
    near |= beside | _tiers_of(beside - chosen)
    return {name: float(name in chosen) for name in CATEGORIES if name in chosen or name not in near} if chosen else {}


def targets(kind: str, role: str, named: Iterable[str] = ()) -> Targets:
    """What a text of `kind` in `role` (prompt, document, tool_result, response) says. Raises KeyError for a kind
    that is not in the table below."""
    named = tuple(named)
    quiet = dict.fromkeys((*ATTACKS, "harmful", *CATEGORIES), 0.0)
    if role == "prompt":
        # Alone, "write a poem" is an honest prompt and would be an injection in a document.
        del quiet["injection_indirect"]
    mild = bool(named) and all(name.endswith("_dual_use_low") for name in named)
    harm = {"harmful": 1.0, "injection": 0.0, "jailbreak": 0.0} | categories(named)
    kinds: dict[str, Targets] = {
        "benign": quiet if role != "response" else quiet | {"harmful_answer": 0.0},
        # Honest text on a subject that a category head may or may not count: only what is certain.
        "allowed": {name: quiet[name] for name in ("injection", "jailbreak", "harmful")},
        # Whether the high tier is harmful depends on who asks; the low one is not.
        "dual_use": {"injection": 0.0, "jailbreak": 0.0} | ({"harmful": 0.0} if mild else {}) | categories(named),
        "harmful": harm,
        # A text that asks for nothing and is hateful, threatening or obscene beyond doubt.
        "post": harm,
        # Posts of public sets, hateful by labels that are often in doubt: they teach the category, not the request.
        "statement": {"injection": 0.0, "jailbreak": 0.0} | categories(named),
        "injection": {"injection": 1.0},
        "injection_indirect": {"injection_indirect": 1.0},
        "jailbreak": {"jailbreak": 1.0},
        "jailbreak_harmful": {"jailbreak": 1.0, "harmful": 1.0} | categories(named),
        "harmful_answer": {"harmful_answer": 1.0} | {k: v for k, v in categories(named).items() if v},
        "refusal": {"harmful_answer": 0.0, "injection": 0.0, "jailbreak": 0.0, "injection_indirect": 0.0},
    }
    return kinds[kind]
