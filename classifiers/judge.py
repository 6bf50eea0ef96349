"""A written policy, read by a model over any endpoint that speaks OpenAI's chat completions.

    kind: judge
    url: https://judge.example/v1
    model: gpt-oss-safeguard-20b
    key_env: JUDGE_KEY
    format: safeguard
    policy_file: policies/weapons.md
    categories: {W1: weapons, W2: explosives}

Each piece of a text is one question; what an answer may look like, and nothing else counts, is judge_formats.py. The
model is outside: equal digests mean equal questions, and as equal answers as the endpoint gives.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Self

from . import option_forms as form
from .base import Finding, Message, NoAnswer, Silence
from .catalog import OptionError
from .judge_formats import LLAMA_GUARD, NONE, Format, LlamaGuardFormat, Reading, SafeguardFormat, VerdictFormat
from .judge_formats import likeliest as read_likeliest
from .options import Options, check_label
from .pieces import cut, pooled
from .service import OPTIONS as WHERE
from .service import Question, Service, together

RULES = "judge-1"
FORMATS = {
    "verdict": "Ours: one word of a closed list, in JSON.",
    "safeguard": "gpt-oss-safeguard: 0, 1, or JSON with violation and policy_category.",
    "llama_guard": "safe, or unsafe and a line of codes.",
}
LONGEST_POLICY = 200_000  # characters
_FORMAT_OPTIONS = {
    "verdict": {"policy", "policy_file", "labels", "structured"},
    "safeguard": {"policy", "policy_file", "categories"},
    "llama_guard": {"policy", "policy_file", "categories"},
}
_WORDS = {"type": "string", "pattern": r"\S"}
OPTIONS: form.Declared = {
    **WHERE,
    "model": form.text("The name that the endpoint knows it by.", needed=True),
    "format": form.choice("How it answers.", FORMATS, "verdict"),
    "policy": form.text("What it judges by, in words."),
    "policy_file": form.text("A file with what it judges by; starts from this file's directory."),
    "labels": form.mapping("With format verdict: each label, and what it means in a sentence.", _WORDS),
    "categories": form.labels("With the other formats: from the model's codes to labels, like {W1: weapons}."),
    "structured": form.flag("With format verdict: send the form of the answer as response_format.", True),
    "max_tokens": form.whole("The bound of an answer.", 1024, 1, 100_000),
    "parameters": form.mapping("Anything else for the endpoint; null takes a default away, like {temperature: null}."),
    "logprobs": form.flag("Scores from the probabilities of the deciding word, where the endpoint gives them.", False),
    "window": form.whole("Characters that are read at once.", 12_000, 200, 1_000_000),
    "overlap": form.whole("Characters that two windows share: up to half of one, else 1000.", None, 0, 500_000),
    "max_windows": form.whole("Windows that one call may ask about.", 64, 1, 10_000),
    "min_score": form.share("The lowest score that is reported.", 0.01),
}
_OURS = frozenset({"model", "messages", "stream", "n", "logprobs", "top_logprobs", "response_format", "max_tokens"})


class Judge:
    """The classifier `judge`. Thread-safe; `classify` ends within `timeout_ms`."""

    inline = False
    waits = True

    def __init__(
        self, name: str, service: Service, shape: Format, body: Mapping[str, Any], pieces: tuple[int, int, int, float]
    ) -> None:
        """`body` is what goes with every question; `pieces` their size and overlap in characters, how many one call
        may ask about, and the lowest score that is reported."""
        self.name, self.labels = name, shape.labels
        self._service, self._format, self._body = service, shape, dict(body)
        self._size, self._overlap, self._most, self._min_score = pieces
        facts = [RULES, service.url, shape.facts, self._body, pieces]
        self.digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def options() -> form.Declared:
        """What an author may write."""
        return OPTIONS

    @staticmethod
    def together() -> list[dict[str, Any]]:
        """What a schema can say of several options: which go with which format."""
        chosen: dict[str, dict[str, Any]] = {name: {"properties": {"format": {"const": name}}} for name in FORMATS}
        for name in list(FORMATS)[1:]:
            chosen[name]["required"] = ["format"]
        every = set().union(*_FORMAT_OPTIONS.values())
        others = {name: dict.fromkeys(sorted(every - _FORMAT_OPTIONS[name]), False) for name in FORMATS}
        policy = {"oneOf": [{"required": ["policy"]}, {"required": ["policy_file"]}]}
        return [
            *({"if": chosen[name], "then": {"properties": others[name]}} for name in FORMATS),
            *({"if": chosen[name], "then": policy} for name in FORMATS if name != "llama_guard"),
            {"if": chosen["verdict"], "then": {"required": ["labels"]}},
        ]

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        """See `options`. Raises OptionError. Nothing is asked yet."""
        read = Options(options, cls.options())
        chosen = read.choice("format")
        for option in set(options) & set().union(*_FORMAT_OPTIONS.values()) - _FORMAT_OPTIONS[chosen]:
            raise OptionError(str(option), f"means nothing with format: {chosen}", "leave it out")
        body: dict[str, Any] = {
            "model": read.text("model", mend="the name that the endpoint knows it by"),
            "temperature": 0,
            "max_tokens": read.whole("max_tokens"),
            "stream": False,
        }
        _add_parameters(body, read.mapping("parameters", {}))
        if read.flag("logprobs"):
            body |= {"logprobs": True, "top_logprobs": 20}
        size = read.whole("window")
        overlap = read.whole("overlap", min(1000, size // 4), high=size // 2)
        pieces = (size, overlap, read.whole("max_windows"), read.share("min_score"))
        shape = _format(chosen, read)
        return cls(name, Service.from_options(read, "/chat/completions"), shape, body, pieces)

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        """Findings by message and label. Raises NoAnswer, with what was found in the other pieces, where a piece has
        no answer that counts."""
        pieces = cut(messages, self._size, self._overlap)
        if len(pieces) > self._most:
            raise NoAnswer(Silence.QUEUE_FULL, f"{len(pieces)} windows to ask about, at most {self._most} are allowed")
        codes = [secrets.token_hex(4) for _ in pieces]
        questions = [
            Question("/chat/completions", self._body | self._format.request(piece, code))
            for piece, code in zip(pieces, codes, strict=True)
        ]
        answers = self._service.ask(questions)
        judged, silences = [], []
        for piece, code, answer in zip(pieces, codes, answers, strict=True):
            reading = answer if isinstance(answer, NoAnswer) else self._read(answer, code)
            if isinstance(reading, NoAnswer):
                silences.append(reading)
                continue
            judged.append((piece, reading.scores))
            if reading.problem:
                silences.append(NoAnswer(Silence.BAD_ANSWER, reading.problem))
        findings = pooled(self.name, judged, self._min_score)
        if silences:
            silence = together(silences, len(pieces))
            raise NoAnswer(silence.reason, silence.detail, findings)
        return findings

    def _read(self, answer: Any, code: str) -> Reading:
        """What a chat completion says, as long as it is whole and the only one."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            return Reading(problem="not one choice")
        choice = choices[0]
        message = choice.get("message")
        if choice.get("finish_reason") != "stop":
            return Reading(problem="an answer that did not end by itself: raise max_tokens if it is too low")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return Reading(problem="no text")
        if message.get("tool_calls") or message.get("refusal") or message.get("role", "assistant") != "assistant":
            return Reading(problem="a refusal or a tool call in place of an answer")
        tokens = read_likeliest(choice.get("logprobs")) if "logprobs" in self._body else []
        if tokens is None:
            return Reading(problem="probabilities that are none")
        return self._format.read(message["content"], code, tokens)


def _add_parameters(body: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Add what an author asks of the endpoint; null takes a default away."""
    for key, value in parameters.items():
        if key in _OURS:
            raise OptionError(f"parameters.{key}", "is not for authors to set", "see the options of the same purpose")
        if key == "max_completion_tokens":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"parameters.{key}", "must be a whole number from 1")
            del body["max_tokens"]
        body[key] = value
    for key in [key for key, value in body.items() if value is None]:
        del body[key]
    try:
        json.dumps(body, allow_nan=False)
    except (TypeError, ValueError):
        raise OptionError("parameters", "holds what JSON cannot", "texts, numbers, lists and mappings") from None


def _format(chosen: str, read: Options) -> Format:
    """The format with its policy and labels."""
    policy = _policy(read)
    if policy is None and chosen != "llama_guard":
        raise OptionError("policy", "is missing", "write it under policy, or name its file with policy_file")
    if chosen == "verdict":
        meanings = read.mapping("labels", mend="a mapping of each label to what it means")
        for label, meaning in meanings.items():
            check_label("labels", label)
            if label == NONE:
                raise OptionError("labels", f"'{NONE}' is the verdict for all other texts", "choose another word")
            if not isinstance(meaning, str) or not meaning.strip():
                raise OptionError("labels", f"what does {label!r} mean?", "a sentence for the judge")
        return VerdictFormat(policy or "", meanings, read.flag("structured"))
    if chosen == "safeguard":
        return SafeguardFormat(policy or "", read.labels("categories", {}))
    default = LLAMA_GUARD if policy is None else None
    categories = read.labels("categories", default, "a mapping of each code of the policy to its label")
    for code in categories:
        if "," in code or code != code.strip() or "\n" in code:
            raise OptionError("categories", f"{code!r} is no code", "a short word, for example S1")
    return LlamaGuardFormat(policy, categories)


def _policy(read: Options) -> str | None:
    if "policy" in read and "policy_file" in read:
        raise OptionError("policy_file", "there is a policy already", "leave one of the two out")
    text = read.maybe_text("policy", "the policy in words")
    if "policy_file" in read:
        path, raw = read.file("policy_file")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise OptionError("policy_file", f"{path} is not UTF-8", "save it as UTF-8") from None
        if not text.strip():
            raise OptionError("policy_file", f"{path} is empty", "write the policy there")
    if text is not None and len(text) > LONGEST_POLICY:
        raise OptionError("policy", f"is longer than {LONGEST_POLICY} characters", "shorten it")
    return text
