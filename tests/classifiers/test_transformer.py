"""Models in the form of Hugging Face: only pinned data is run, and all of a text is read.

The graph of words.py knows three words, so that every score can be said by hand. Models as
transformers makes them are in test_transformer_pytorch.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from classifiers import transformer, transformer_model
from classifiers.base import Finding, NoAnswer
from classifiers.catalog import OptionError, create
from classifiers.transformer import Transformer
from classifiers.windows import split
from tests.classifiers import words
from tests.classifiers.tables import messages

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "calm", "attack", "bad", "spam", "nan", "a", "the"]
CONFIG: dict[str, Any] = {
    "model_type": "words",
    "vocab_size": 24,
    "max_position_embeddings": 32,
    "id2label": {"0": "SAFE", "1": "ATTACK", "2": "SPAM"},
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def softmax(*logits: float) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


CALM, ATTACK, BAD, SPAM = softmax(2, -2, -4), softmax(-4, 4, -4), softmax(-1, 1, -4), softmax(2, -2, 4)


def write_tokenizer(folder: Path) -> None:
    """A fast tokenizer that asks, as many do, to cut what is long."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY.index("[CLS]")), ("[SEP]", 3)]
    )
    made.enable_truncation(8)
    made.enable_padding(length=40)
    made.save(str(folder / "tokenizer.json"))


def write(folder: Path, **config: Any) -> Path:
    """The model that knows three words, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    write_tokenizer(folder)
    words.write(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("words"))


def load(folder: Path, **options: Any) -> Transformer:
    made = create("transformer", "model", {"path": str(folder), "weights": "model.onnx", **options})
    assert isinstance(made, Transformer)
    return made


def scores(classifier: Transformer, text: str) -> dict[str, float]:
    return {finding.label: finding.score for finding in classifier.classify(messages(text))}


def near(values: list[float]) -> dict[str, Any]:
    return {
        label: pytest.approx(value, abs=1e-6) for label, value in zip(("SAFE", "ATTACK", "SPAM"), values, strict=True)
    }


# What is seen


@pytest.mark.parametrize(
    ("text", "expected"),
    [("calm", CALM), ("an ATTACK", ATTACK), ("bad", BAD), ("spam", SPAM), ("x" * 1000, CALM), ("\ud800 bad", BAD)],
)
def test_scores(folder: Path, text: str, expected: list[float]) -> None:
    assert scores(load(folder, min_score=0), text) == near(expected)


def test_findings(folder: Path) -> None:
    classifier = load(folder, labels={"ATTACK": "injection"}, min_score=0.5)
    assert classifier.labels == {"injection"}
    found = classifier.classify(messages("calm", "attack", "", " \n", "attack"))
    assert [(f.classifier, f.label, f.message, f.span) for f in found] == [
        ("model", "injection", 1, None),
        ("model", "injection", 4, None),
    ]
    assert not classifier.inline


@pytest.mark.parametrize("place", [0, 1, 15, 16, 17, 500, 998, 999])
def test_a_word_anywhere_in_a_long_text_is_found(folder: Path, place: int) -> None:
    """The tokenizer's own wish to cut after 8 tokens is not followed."""
    said = ["calm"] * 1000
    said[place] = "attack"
    text = " ".join(said)
    [found] = load(folder, labels={"ATTACK": "attack"}, min_score=0.9).classify(messages(text))
    assert found.span is not None
    assert "attack" in text[slice(*found.span)]
    assert len(text[slice(*found.span)].split()) <= 30
    assert found.score == pytest.approx(ATTACK[1], abs=1e-6)


def test_the_best_window_counts_for_each_label(folder: Path) -> None:
    text = " ".join(["attack", *["calm"] * 60, "spam"])
    found = {f.label: f for f in load(folder, window=10, overlap=2).classify(messages(text))}
    assert {label: f.score for label, f in found.items()} == near([CALM[0], ATTACK[1], SPAM[2]])
    spans = [found[label].span for label in ("ATTACK", "SPAM")]
    assert spans[0] is not None
    assert spans[1] is not None
    assert (spans[0][0], spans[1][1]) == (0, len(text))


def test_words_together_are_in_one_window(folder: Path) -> None:
    """Two bad words are worse than one, and are read together wherever they stand."""
    pair = softmax(2 - 6, -2 + 6, -4)[1]
    classifier = load(folder, labels={"ATTACK": "attack"}, window=10, overlap=2)
    for place in range(40):
        said = ["calm"] * 40
        said[place : place + 1] = ["bad", "bad"]
        assert scores(classifier, " ".join(said)) == {"attack": pytest.approx(pair, abs=1e-6)}


@given(said=st.lists(st.sampled_from(["calm", "attack", "bad", "spam", "the", "?", "é"]), max_size=60))
def test_any_text_scores_as_its_best_window(folder: Path, said: list[str]) -> None:
    found = scores(load(folder, window=12, overlap=3, min_score=0), " ".join(said))
    windows = [said[window.start : window.end] for window in split(len(said), 10, 3, special=0)]
    worth = [[logit(part, column) for column in range(3)] for part in windows]
    assert found == (near([max(row[column] for row in map(softmax_of, worth)) for column in range(3)]) if said else {})


def logit(said: list[str], column: int) -> float:
    rows = {"attack": (-6, 6, 0), "bad": (-3, 3, 0), "spam": (0, 0, 8)}
    return (2, -2, -4)[column] + sum(rows.get(word, (0, 0, 0))[column] for word in said)


def softmax_of(logits: list[float]) -> list[float]:
    return softmax(*logits)


def test_special_tokens_of_a_caller_are_text(folder: Path) -> None:
    model = load(folder)._model
    assert 3 not in model.tokens("[SEP] [CLS]")[0]
    assert model.special == 2


def count_runs(classifier: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    real = classifier._model._run

    def run(ids: Any) -> Any:
        runs.append(ids.shape[1])
        return real(ids)

    monkeypatch.setattr(classifier._model, "_run", run)
    return runs


def test_equal_texts_and_windows_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(folder)
    runs = count_runs(classifier, monkeypatch)
    classifier.classify(messages("attack", "attack", "calm " * 5000))
    assert runs == [3, 32]


def test_time_is_bounded_and_hides_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(folder, timeout_ms=1000)
    clock = [0.0]
    real = classifier._model._run

    def slow(ids: Any) -> Any:
        clock[0] += 0.4
        return real(ids)

    monkeypatch.setattr(classifier._model, "_run", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(NoAnswer) as caught:
        classifier.classify(
            messages("attack", " ".join(["bad", "calm", "spam"][n % 3] * (n % 7 + 1) for n in range(500)))
        )
    assert str(caught.value.reason) == "timeout"
    assert {finding.message for finding in caught.value.findings} == {0}


def test_no_number_is_no_answer(folder: Path) -> None:
    with pytest.raises(NoAnswer) as caught:
        load(folder).classify(messages("attack", "nan"))
    assert str(caught.value.reason) == "bad_answer"
    assert {finding.message for finding in caught.value.findings} == {0}


def test_threads_agree(folder: Path) -> None:
    classifier = load(folder)
    text = " ".join(["attack", *["calm"] * 100])
    answers: list[list[Finding]] = []
    threads = [threading.Thread(target=lambda: answers.append(classifier.classify(messages(text)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [answers[0]] * 4


# From logits to probabilities


@pytest.mark.parametrize(
    ("config", "activation", "expected"),
    [
        ({}, "auto", SPAM),
        ({"problem_type": "single_label_classification"}, "auto", SPAM),
        ({"problem_type": "multi_label_classification"}, "auto", [1 / (1 + math.exp(-x)) for x in (2, -2, 4)]),
        ({"problem_type": "multi_label_classification"}, "softmax", SPAM),
        ({"problem_type": "regression"}, "sigmoid", [1 / (1 + math.exp(-x)) for x in (2, -2, 4)]),
        ({}, "sigmoid", [1 / (1 + math.exp(-x)) for x in (2, -2, 4)]),
    ],
)
def test_activations(tmp_path: Path, config: dict[str, Any], activation: str, expected: list[float]) -> None:
    classifier = load(write(tmp_path, **config), activation=activation, min_score=0)
    assert scores(classifier, "spam") == near(expected)


# Pins


def by_hand(folder: Path, *names: str) -> str:
    """`sha256sum NAMES | sha256sum`, as an author would take it."""
    done = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    return hashlib.sha256(done.stdout).hexdigest()


def cached(home: Path, source: Path) -> Path:
    """The folder in the form of the hub's cache: links to blobs. Its snapshot."""
    place = home / "models--owner--words"
    (place / "blobs").mkdir(parents=True)
    (place / "snapshots" / REVISION).mkdir(parents=True)
    for file in source.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, place / "blobs" / name)
        (place / "snapshots" / REVISION / file.name).symlink_to(Path("../../blobs") / name)
    return place / "snapshots" / REVISION


def test_a_model_of_the_hub_needs_its_pins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path / "hub", folder)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    digest = by_hand(folder, "config.json", "model.onnx", "tokenizer.json")
    options = {"model": "owner/words", "revision": REVISION, "digest": digest, "weights": "model.onnx"}
    made = create("transformer", "model", options)
    assert made.digest == load(folder).digest
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert create("transformer", "model", options).digest == made.digest
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"revision": None}, "revision: is missing"),
        ({"revision": "main"}, "revision: 'main' is no commit"),
        ({"revision": "f" * 40}, "hf download owner/words --revision f"),
        ({"digest": None}, f"digest: is missing; that of the files here is {digest}"),
        ({"digest": "0" * 64}, f"digest: the files were altered: theirs is {digest}"),
        ({"digest": digest.upper()}, "digest: must be 64 hex digits"),
        ({"model": "owner/other"}, "is not in .*fetch it once: hf download owner/other"),
        ({"model": "../words"}, "is no name of a model"),
        ({"model": "owner/..%2f"}, "is no name of a model"),
        ({"path": str(folder)}, "needs either model or path"),
        ({"model": None}, "needs either model or path"),
        ({"model": None, "path": str(folder)}, "revision: a folder has none"),
    ]
    for changes, complaint in wrong:
        with pytest.raises(OptionError, match=complaint):
            create("transformer", "model", {k: v for k, v in (options | changes).items() if v is not None})


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.onnx"])
def test_one_altered_byte_is_seen_before_anything_is_run(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    digest = by_hand(folder, "config.json", "model.onnx", "tokenizer.json")
    assert load(copy, digest=digest).digest == load(folder).digest
    raw = (copy / name).read_bytes()
    (copy / name).write_bytes(raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:] if name == "model.onnx" else raw + b" ")
    monkeypatch.setattr(ort, "InferenceSession", lambda *_: pytest.fail("it was run"))
    with pytest.raises(OptionError, match="digest: the files were altered"):
        load(copy, digest=digest)


def test_weights_beside_the_graph_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in the digest, so whoever can write there could exchange the model."""
    write(tmp_path)
    words.write_apart(tmp_path / "external.onnx")
    assert (tmp_path / "table.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="ONNX Runtime cannot load this graph"):
        load(tmp_path, weights="external.onnx")


def test_the_digest_covers_what_shapes_an_answer(folder: Path, tmp_path: Path) -> None:
    plain = load(folder)
    assert load(folder, timeout_ms=1).digest == load(folder, window=32).digest == plain.digest
    others = [
        load(folder, labels={"ATTACK": "ATTACK"}),
        load(folder, labels={"ATTACK": "injection"}),
        load(folder, activation="sigmoid"),
        load(folder, window=16),
        load(folder, overlap=1),
        load(folder, min_score=0.2),
        load(write(tmp_path, architectures=["Words"])),
    ]
    digests = [plain.digest, *[other.digest for other in others]]
    assert len(set(digests)) == len(digests)


def test_one_copy_of_the_weights_serves_all(folder: Path) -> None:
    first, second = load(folder), load(folder, labels={"SPAM": "spam"})
    assert first._model is second._model


# What could hold code


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl", "model.joblib", "model.h5"]
)
def test_pickles_are_refused_and_not_opened(tmp_path: Path, name: str) -> None:
    model = write(tmp_path / "model")
    (model / "model.onnx").unlink()
    mark = tmp_path / "mark"
    (model / name).write_bytes(pickle.dumps(Bomb(mark)))
    for options, complaint in (
        ({}, f"weights: only {name}, which can hold code"),
        ({"weights": name}, f"weights: {name} can hold code"),
    ):
        with pytest.raises(OptionError, match=complaint):
            create("transformer", "model", {"path": str(model), **options})
    assert not mark.exists()
    pickle.loads((model / name).read_bytes())
    assert mark.exists()  # the bomb was live


@pytest.mark.parametrize("weights", ["model.onnx", None])
def test_code_of_a_models_own_is_refused_and_not_run(tmp_path: Path, weights: str | None) -> None:
    model = write(tmp_path / "model", auto_map={"AutoModelForSequenceClassification": "modeling_words.Words"})
    mark = tmp_path / "mark"
    (model / "modeling_words.py").write_text(f"open({str(mark)!r}, 'w')", encoding="utf-8")
    with pytest.raises(OptionError, match="needs code of its own"):
        create("transformer", "model", {"path": str(model)} | ({"weights": weights} if weights else {}))
    assert not mark.exists()


SPOILT: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no folder": (shutil.rmtree, {}, "path: .* is no folder"),
    "no configuration": (lambda d: (d / "config.json").unlink(), {}, "cannot read .*config.json"),
    "no JSON": (lambda d: (d / "config.json").write_text("{"), {}, "config.json is not JSON"),
    "JSON too deep": (lambda d: (d / "config.json").write_text("[" * 99999), {}, "config.json is not JSON"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), {}, "is no configuration"),
    "quantised": (lambda d: write(d, quantization_config={"bits": 4}), {}, "quantised in a form of its own"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), {}, r"cannot read .*tokenizer.json.*save_pretrained"),
    "no tokenizer in it": (lambda d: (d / "tokenizer.json").write_text("{}"), {}, "tokenizer.json is none"),
    "a tokenizer in Latin": (lambda d: (d / "tokenizer.json").write_bytes(b"\xff"), {}, "tokenizer.json is none"),
    "another's tokenizer": (lambda d: write(d, vocab_size=5), {}, "its tokenizer is that of another model"),
    "no graph": (lambda d: (d / "model.onnx").unlink(), {}, "cannot read .*model.onnx"),
    "no graph in it": (lambda d: (d / "model.onnx").write_bytes(b"hello"), {}, "ONNX Runtime cannot load"),
    "half a graph": (
        lambda d: (d / "model.onnx").write_bytes((d / "model.onnx").read_bytes()[:400]),
        {},
        "ONNX Runtime cannot load",
    ),
    "no weights": (lambda d: (d / "model.onnx").unlink(), {"weights": None}, "weights: there are none in"),
    "weights not named": (lambda d: None, {"weights": None}, "name the ONNX graph: weights: model.onnx"),
    "weights outside": (lambda d: None, {"weights": "../words/model.onnx"}, "outside of the model's folder"),
    "weights at the root": (lambda d: None, {"weights": "/model.onnx"}, "outside of the model's folder"),
    "weights that are none": (lambda d: None, {"weights": "config.json"}, "config.json holds no weights"),
    "too few labels": (lambda d: write(d, id2label={"0": "A", "1": "B"}), {}, "numbers for 2 labels"),
    "labels with a gap": (lambda d: write(d, id2label={"0": "A", "2": "B"}), {}, "id2label in config.json"),
    "labels twice": (lambda d: write(d, id2label={"0": "A", "1": "A", "2": "B"}), {}, "id2label in config.json"),
    "labels that are none": (lambda d: write(d, id2label=["A", "B"]), {}, "id2label in config.json"),
    "labels with blanks": (lambda d: write(d, id2label={"0": "A", "1": "B C", "2": "D"}), {}, "'B C' is no label"),
    "regression": (lambda d: write(d, problem_type="regression"), {}, "activation: the model gives numbers"),
    "an index that is none": (
        lambda d: (d / "model.safetensors.index.json").write_text("{}"),
        {"weights": None},
        "is no index",
    ),
    "an index that leads outside": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
        {"weights": None},
        "names a shard that is none",
    ),
    "an index without its shards": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        {"weights": None},
        "cannot read .*x.safetensors",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_model_is_refused(tmp_path: Path, how: str) -> None:
    spoil, options, complaint = SPOILT[how]
    model = write(tmp_path / "words")
    spoil(model)
    asked = {"path": str(model), "weights": "model.onnx"} | options
    with pytest.raises(OptionError, match=complaint):
        create("transformer", "model", {key: value for key, value in asked.items() if value is not None})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"labels": {"JAILBREAK": "x"}}, "labels: the model has no label 'JAILBREAK' .one of ATTACK, SAFE, SPAM"),
        ({"labels": {"ATTACK": "two words"}}, "labels: 'two words' is no label"),
        ({"labels": ["ATTACK"]}, "labels: must be a mapping"),
        ({"activation": "relu"}, "activation: 'relu' is unknown"),
        ({"window": 33}, "window: must be a whole number from 4 to 32"),
        ({"window": 3}, "window: must be a whole number from 4 to 32"),
        ({"window": 10, "overlap": 8}, "overlap: must be a whole number from 0 to 7"),
        ({"min_score": 1}, "min_score: must be a number"),
        ({"timeout_ms": 0}, "timeout_ms: must be a whole number"),
        ({"trust_remote_code": True}, "trust_remote_code: no such option"),
    ],
)
def test_wrong_options_say_what_to_write(folder: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        load(folder, **options)


def test_without_pytorch_safetensors_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write(tmp_path) / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"PyTorch is not installed.*pip install 'penstock\[torch\]'"):
        create("transformer", "model", {"path": str(tmp_path)})


def test_one_output_has_a_probability_of_its_own() -> None:
    assert transformer._is_sigmoid({}, "auto", 1)
    assert not transformer._is_sigmoid({}, "auto", 2)


@pytest.mark.parametrize(
    ("config", "reach"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "t5"}, None),
    ],
)
def test_how_far_a_model_reaches(folder: Path, config: dict[str, Any], reach: int | None) -> None:
    model = object.__new__(transformer_model.Model)
    model.config = config
    assert model.reach == reach


def test_logits_of_any_size() -> None:
    classifier = object.__new__(Transformer)
    for sigmoid in (True, False):
        classifier._sigmoid = sigmoid
        for logits in ([3e38, -3e38], [0.0, 0.0], [-1e4, 1e4]):
            values = classifier._activate(np.asarray(logits))
            assert ((values >= 0) & (values <= 1)).all()
