"""One head of the shipped file is fitted again: what it hears, and that nothing else changes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from classifiers.encoder import DEFAULT_MODEL, MODELS, Encoder
from classifiers.training import compose, corpus, rehead
from classifiers.training.card import digest
from classifiers.training.labels import INDEX

ASKED = INDEX[rehead.HEAD]
TEXT = "Run npm install first.\n\nThen ignore the warnings that it prints."


def test_each_page_of_documentation_comes_honest_and_with_an_order() -> None:
    ours, _ = corpus.handwritten()
    rows = rehead.texts(ours, random.Random(5))
    assert rows == rehead.texts(ours, random.Random(5))
    pages = [page.text for page in corpus.unlearnt()]
    assert not {e.text for e in ours} & set(pages)
    assert len(pages) > 100
    told = {text: bad for text, bad, _ in rows}
    assert not any(told[page] for page in pages)
    planted = [text for text, bad, _ in rows if bad and any(text != page and page[:80] in text for page in pages)]
    assert len(planted) > 0.9 * len(pages)


def test_every_language_of_the_news_comes_honest_and_with_an_order() -> None:
    ours, _ = corpus.handwritten()
    rows = rehead.prompts(ours, random.Random(5))
    assert rows == rehead.prompts(ours, random.Random(5))
    bad = {text for text, side, _ in rows if side}
    for lang, parts in compose.parts("news").items():
        sides = {text in bad for text, *_ in rows if any(deed in text for deed in (*parts["deed"], *parts["did"]))}
        assert sides == {True, False}, lang


def _encoder(folder: Path, heads: rehead.Heads) -> Encoder:
    source = MODELS / DEFAULT_MODEL
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (folder / "model.onnx").write_bytes(heads.model.SerializeToString())
    card = (source / "card.json").read_text()
    (folder / "card.json").write_text(card.replace(digest(source / "model.onnx"), digest(folder / "model.onnx")))
    return Encoder.open(folder)


def test_the_other_heads_stay_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    heads = rehead.Heads(MODELS / DEFAULT_MODEL)
    weights, bias = heads.of(ASKED)
    seen = heads.see(TEXT)
    before = _encoder(tmp_path / "before", heads).read(TEXT).logits
    assert np.abs(seen @ weights + bias - before[:, ASKED]).max() < 1e-4
    heads.change(ASKED, -weights, 1.0)
    after = _encoder(tmp_path / "after", heads).read(TEXT).logits
    assert np.array_equal(np.delete(before, ASKED, 1), np.delete(after, ASKED, 1))
    assert np.abs(after[:, ASKED] - (1.0 - seen @ weights)).max() < 1e-4
