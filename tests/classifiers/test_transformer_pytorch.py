"""Models as transformers makes and saves them, run by PyTorch: the same scores as the model itself gives.

Where PyTorch is not installed, it is fetched once for these tests, if the package index has a build for CPUs.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifiers.catalog import OptionError, create
from classifiers.transformer import Transformer
from classifiers.windows import split
from tests.classifiers.tables import messages
from tests.classifiers.test_transformer import VOCABULARY, Bomb, write_tokenizer
from tests.packages import packages

SIZE: dict[str, Any] = {"vocab_size": 24, "num_labels": 3, "pad_token_id": 0}
SMALL = SIZE | {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
# Kinds that guards come in, each as small as it can be.
KINDS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL | {"pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": SMALL | {"pad_token_id": 1},
    "electra": SMALL | {"embedding_size": 8},
    "distilbert": SIZE | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "deberta-v2": SMALL
    | {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
    },
    "modernbert": SMALL | {"cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2, "local_attention": 8},
    "albert": SMALL | {"embedding_size": 8},
    "gpt2": SIZE | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3},
    "qwen2": SMALL | {"num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3},
}
TEXT = "the attack is bad , a calm spam"
LONG = " ".join(VOCABULARY[4 + (n * n) % 7] for n in range(150))


@pytest.fixture(scope="module")
def pytorch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The modules torch and transformers."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        if sys.version_info[:2] != (3, 11):
            pytest.skip("the locked build of PyTorch is for Python 3.11; or install penstock[torch]")
        # By this name Hypothesis knows that they are not ours: it would read them all, in half a minute.
        named = tmp_path_factory.mktemp("pytorch") / "site-packages"
        named.symlink_to(packages("pytorch"), target_is_directory=True)
        sys.path.append(str(named))  # behind our own: equal versions are not loaded twice
        importlib.invalidate_caches()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a model reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def build(pytorch: Any, folder: Path, kind: str = "bert", **options: Any) -> Any:
    """A small random model of that kind, saved in `folder` with its tokenizer."""
    torch, transformers = pytorch
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **(KINDS[kind] | options))
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():  # small random weights give scores that hardly differ
        parameter.data.mul_(4.0)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def load(folder: Path, **options: Any) -> Transformer:
    made = create("transformer", "model", {"path": str(folder), "min_score": 0.0, **options})
    assert isinstance(made, Transformer)
    return made


def scores(classifier: Transformer, text: str) -> list[float]:
    found = {finding.label: finding.score for finding in classifier.classify(messages(text))}
    return [found[label] for label in classifier._model.labels]


def reference(pytorch: Any, model: Any, ids: list[int], sigmoid: bool = False) -> Any:
    """What the model itself says of token ids, special ones included."""
    torch, _ = pytorch
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return pytest.approx((torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)).numpy(), abs=1e-5)


def tokens(text: str) -> list[int]:
    return [VOCABULARY.index(word) if word in VOCABULARY else 1 for word in text.split()]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_score_as_they_do_in_transformers(pytorch: Any, offline: None, tmp_path: Path, kind: str) -> None:
    model = build(pytorch, tmp_path, kind)
    classifier = load(tmp_path)
    found = scores(classifier, TEXT)
    assert np.asarray(found) == reference(pytorch, model, [2, *tokens(TEXT), 3])
    assert np.ptp(found) > 1e-3
    words = tokens(LONG)
    parts = [
        classifier._activate(classifier._model.run(np.asarray(words[window.start : window.end])))
        for window in split(len(words), *classifier._window, special=2)
    ]
    assert len(parts) > 2
    assert scores(classifier, LONG) == pytest.approx(np.max(parts, axis=0).tolist(), abs=1e-6)


def test_many_labels_at_once(pytorch: Any, tmp_path: Path) -> None:
    labels: dict[str, Any] = {
        "id2label": {0: "toxic", 1: "insult", 2: "threat"},
        "problem_type": "multi_label_classification",
    }
    model = build(pytorch, tmp_path, **labels)
    assert np.asarray(scores(load(tmp_path), TEXT)) == reference(pytorch, model, [2, *tokens(TEXT), 3], sigmoid=True)
    assert load(tmp_path, labels={"insult": "harassment"}).labels == {"harassment"}


def test_weights_in_shards_and_in_halves(pytorch: Any, tmp_path: Path) -> None:
    model = build(pytorch, tmp_path / "whole")
    whole = load(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    write_tokenizer(tmp_path / "shards")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    shards = load(tmp_path / "shards")
    assert scores(shards, TEXT) == scores(whole, TEXT)
    assert shards.digest != whole.digest
    model.to(pytorch[0].bfloat16).save_pretrained(tmp_path / "halves")
    write_tokenizer(tmp_path / "halves")
    assert scores(load(tmp_path / "halves"), TEXT) == pytest.approx(scores(whole, TEXT), abs=0.05)


def rewrite(folder: Path, **changes: Any) -> None:
    place = folder / "config.json"
    config = json.loads(place.read_text("utf-8")) | changes
    place.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")


def safetensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (lambda d: (d / "model.safetensors").write_bytes(b"hello"), "weights: the weights do not fit"),
    "half a file": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:999]),
        "weights: the weights do not fit",
    ),
    "a pickle by that name": (
        lambda d: (d / "model.safetensors").write_bytes(__import__("pickle").dumps(Bomb(d / "mark"))),
        "weights: the weights do not fit",
    ),
    "no head": (
        lambda d: safetensors(d, lambda w: [w.pop(name) for name in list(w) if name.startswith("classifier")]),
        "weights: lack classifier",
    ),
    "a head of another size": (
        lambda d: rewrite(d, id2label={"0": "A", "1": "B"}, num_labels=2),
        "weights: the weights do not fit",
    ),
    "a body of another size": (lambda d: rewrite(d, hidden_size=32), "weights: the weights do not fit"),
    "not a number": (
        lambda d: safetensors(d, lambda w: w["classifier.bias"].fill_(float("nan"))),
        "weights: the model answered with a number that is not finite",
    ),
    "a kind that nobody knows": (lambda d: rewrite(d, model_type="words"), "knows no sequence classifier 'words'"),
    "a kind that does not classify": (lambda d: rewrite(d, model_type="vit"), "knows no sequence classifier 'vit'"),
    "no kind": (lambda d: rewrite(d, model_type=None), "knows no sequence classifier 'None'"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_model_is_refused(pytorch: Any, offline: None, tmp_path: Path, how: str) -> None:
    build(pytorch, tmp_path)
    spoil, complaint = SPOILT[how]
    spoil(tmp_path)
    with pytest.raises(OptionError, match=complaint):
        load(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_configuration_cannot_choose_code(pytorch: Any, offline: None, tmp_path: Path) -> None:
    """Kernels can be named by their place on the hub, from where transformers would fetch and run them."""
    model = build(pytorch, tmp_path)
    kernel = {"attn_implementation": "owner/kernel", "_attn_implementation": "owner/kernel", "use_kernels": True}
    rewrite(tmp_path, **kernel, _name_or_path="owner/words", dtype="float16")
    assert np.asarray(scores(load(tmp_path), TEXT)) == reference(pytorch, model, [2, *tokens(TEXT), 3])
