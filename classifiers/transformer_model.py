"""The files of a model in the form of Hugging Face, and what runs them: nothing in them can be code.

Three files count: `config.json`, `tokenizer.json` and the weights, as safetensors (run by PyTorch, the extra
`penstock[torch]`) or as an ONNX graph (run by what Penstock brings). Each is read once, and what was read is what is
digested and run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .base import NoAnswer, Silence
from .catalog import OptionError

FETCH = "pip install 'penstock[torch]'"
_REACHES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
# Their first positions are kept for padding.
_SHIFTED = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text"})
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".joblib", ".npz")

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Run = Callable[[Ids], Floats]
"""From token ids (1, t), special ones included, to logits (1, labels)."""


@dataclass(frozen=True, slots=True)
class Files:
    """The bytes of a model: its configuration, its tokenizer, and its weights by file name. `digest` is what
    `sha256sum FILES | sha256sum` gives for all of them, sorted by name."""

    config: dict[str, Any]
    tokenizer: bytes
    weights: Mapping[str, bytes]
    digest: str


class Model:
    """Configuration, tokenizer and engine; safe to share between threads."""

    _open: ClassVar[WeakValueDictionary[str, Model]] = WeakValueDictionary()
    _opening: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def open(cls, files: Files) -> Model:
        """The model of these files, the same one for all who use it at a time. Raises OptionError."""
        with cls._opening:
            found = cls._open.get(files.digest)
            if found is None:
                found = cls._open[files.digest] = cls(files)
            return found

    def __init__(self, files: Files) -> None:
        config = files.config
        self.config, self.digest = config, files.digest
        self.labels = _labels(config)
        try:
            self._tokenizer = Tokenizer.from_str(files.tokenizer.decode("utf-8"))
        except Exception as error:  # the library's own, of no particular type
            raise OptionError("model", f"tokenizer.json is none: {error}", "save the fast tokenizer again") from None
        # A tokenizer.json may ask to cut what is long. "[SEP]" typed by a caller is text like any other.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        size = config.get("vocab_size")
        if highest < 0 or (isinstance(size, int) and highest >= size):
            raise OptionError("model", "its tokenizer is that of another model", "fetch both again, from one place")
        marked = self._tokenizer.encode("a")
        if 0 not in marked.special_tokens_mask:
            raise OptionError("model", "its tokenizer makes nothing of a letter", "fetch the model again")
        inner = marked.special_tokens_mask.index(0)
        count = len(marked.ids) - sum(marked.special_tokens_mask)
        self._first, self._last = marked.ids[:inner], marked.ids[inner + count :]
        onnx = next((raw for name, raw in files.weights.items() if name.endswith(".onnx")), None)
        self._run = _pytorch(config, list(files.weights.values())) if onnx is None else _onnx(onnx)
        try:
            self.run(np.asarray(marked.ids[inner : inner + count], dtype=np.int64))
        except NoAnswer as silence:
            raise OptionError("weights", silence.detail, "fetch the model again, or take another") from None

    @property
    def special(self) -> int:
        """The number of special tokens around each window."""
        return len(self._first) + len(self._last)

    @property
    def reach(self) -> int | None:
        """How many tokens it reads at most, special ones included; None where its configuration does not say."""
        found = [value for key in _REACHES if isinstance(value := self.config.get(key), int) and value > 0]
        if not found:
            return None
        shift = (self.config.get("pad_token_id") or 0) + 1 if self.config.get("model_type") in _SHIFTED else 0
        return found[0] - shift

    def tokens(self, text: str) -> tuple[Ids, Sequence[tuple[int, int]]]:
        """Token ids (n,) without special tokens, and each one's [start, end) in code points of `text`."""
        # A lone surrogate cannot be encoded; a question mark keeps all offsets.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode_batch([clean], add_special_tokens=False)[0]
        return np.asarray(encoding.ids, dtype=np.int64), encoding.offsets

    def run(self, ids: Ids) -> NDArray[np.float64]:
        """Logits (labels,) of one window of token ids (n,). Raises NoAnswer where they are no numbers."""
        row = np.concatenate((self._first, ids, self._last)).astype(np.int64)[None, :]
        logits = self._run(row)
        if logits.shape != (1, len(self.labels)):
            mend = "id2label in config.json must name each of its outputs"
            raise OptionError("model", f"it gives {logits.shape} numbers for {len(self.labels)} labels", mend)
        if not np.isfinite(logits).all():
            raise NoAnswer(Silence.BAD_ANSWER, "the model answered with a number that is not finite")
        return np.asarray(logits[0], dtype=np.float64)


def read_files(folder: Path, weights: str | None) -> Files:
    """The files of a model, all read once. Raises OptionError for those that are missing or could hold code."""
    place = folder / "config.json"
    raw = {"config.json": _read(place, "every model has one")}
    try:
        config = json.loads(raw["config.json"])
    except (ValueError, RecursionError):
        raise OptionError("model", f"{place} is not JSON", "fetch it again") from None
    if not isinstance(config, dict):
        raise OptionError("model", f"{place} is no configuration", "fetch it again")
    if "auto_map" in config:
        raise OptionError("model", "needs code of its own (auto_map in config.json)", "take another: code is never run")
    if "quantization_config" in config:
        raise OptionError("model", "is quantised in a form of its own", "use its ONNX form or its full weights")
    parts = _weight_files(folder, weights or _weights(folder))
    mend = "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER) writes the fast tokenizer"
    raw |= parts | {"tokenizer.json": _read(folder / "tokenizer.json", mend)}
    lines = "".join(f"{hashlib.sha256(raw[name]).hexdigest()}  {name}\n" for name in sorted(raw))
    held = {name: part for name, part in parts.items() if not name.endswith(".json")}
    return Files(config, raw["tokenizer.json"], held, hashlib.sha256(lines.encode()).hexdigest())


def _weights(folder: Path) -> str:
    """The name of the weights in a folder that may hold them in several forms."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).exists():
            return name
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in present:
        if name.endswith(".onnx"):
            raise OptionError("weights", "there are none in safetensors", f"name the ONNX graph: weights: {name}")
        if name.endswith(_PICKLES):
            raise OptionError("weights", f"only {name}, which can hold code", "save the model as safetensors")
    raise OptionError("weights", f"there are none in {folder}", "model.safetensors, or name an ONNX graph")


def _weight_files(folder: Path, name: str) -> dict[str, bytes]:
    """The files that hold the weights, by name."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise OptionError("weights", f"{name} is outside of the model's folder", "a path inside it")
    if name.endswith((".safetensors", ".onnx")):
        return {name: _read(folder / name, "a file of the model's folder")}
    if not name.endswith(".safetensors.index.json"):
        problem = f"{name} can hold code" if name.endswith(_PICKLES) else f"{name} holds no weights"
        raise OptionError("weights", problem, "a .safetensors or .onnx file")
    index = _read(folder / name, "a file of the model's folder")
    try:
        shards = set(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError("weights", f"{name} is no index", "fetch it again") from None
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            raise OptionError("weights", f"{name} names a shard that is none", "fetch it again")
    return {name: index} | {shard: _read(folder / shard, "fetch the model again") for shard in sorted(shards)}


def _read(path: Path, mend: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError("model", f"cannot read {path}: {error.strerror}", mend) from None


def _labels(config: Mapping[str, Any]) -> list[str]:
    """The model's labels in the order of its outputs."""
    table = config.get("id2label")
    if table is None and isinstance(config.get("num_labels", 2), int):
        return [f"LABEL_{number}" for number in range(config.get("num_labels", 2))]
    listed = [table.get(str(number)) for number in range(len(table))] if isinstance(table, dict) else []
    names = [name for name in listed if isinstance(name, str)]
    if not names or len(set(names)) < len(listed):
        raise OptionError("model", "id2label in config.json is no list of labels", "name each output once, from 0")
    return names


def _onnx(raw: bytes) -> Run:
    """ONNX Runtime, one thread for each call."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in files beside the graph would not be those of the digest.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(raw, options, ["CPUExecutionProvider"])
    except Exception as error:  # its own, of no particular type
        problem = f"ONNX Runtime cannot load this graph: {str(error)[:200]}"
        raise OptionError("weights", problem, "one file that holds all weights") from None
    inputs = {given.name for given in session.get_inputs()}
    outputs = [made.name for made in session.get_outputs()]
    if not inputs <= {"input_ids", "attention_mask", "token_type_ids"} or "input_ids" not in inputs:
        raise OptionError("weights", f"the graph asks for {', '.join(sorted(inputs))}", "export it with input_ids")
    if "logits" not in outputs:
        raise OptionError("weights", f"the graph gives {', '.join(outputs)}, no logits", "export a sequence classifier")

    def run(ids: Ids) -> Floats:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        [logits] = session.run(["logits"], {name: feed[name] for name in inputs})
        return np.asarray(logits, dtype=np.float32)

    return run


def _pytorch(config: Mapping[str, Any], shards: Sequence[bytes]) -> Run:
    """PyTorch, one thread for each call; it takes the whole process to one."""
    try:
        import safetensors.torch
        import torch
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES
    except ImportError:
        mend = f"{FETCH}, or name an ONNX graph"
        raise OptionError("weights", "PyTorch is not installed, which runs safetensors", mend) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    kind = str(config.get("model_type"))
    # What would choose code or types for us: kernels can be named by their place on the hub.
    ours = {"model_type", "torch_dtype", "dtype", "use_kernels"}
    rest = {key: value for key, value in config.items() if key not in ours and "attn_implementation" not in key}
    try:
        made = transformers.AutoConfig.for_model(kind, **rest)
        shape = CLASSES[type(made)]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"transformers {transformers.__version__} knows no sequence classifier {kind!r} ({error})"
        raise OptionError("model", problem, "update it, or use the model's ONNX form") from None
    try:
        weights: dict[str, Any] = {}
        for shard in shards:
            weights |= safetensors.torch.load(shard)
        model, told = shape.from_pretrained(
            None,
            config=made,
            state_dict=weights,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",
        )
    except Exception as error:  # of many libraries
        problem = f"the weights do not fit the configuration: {type(error).__name__}: {str(error)[:200]}"
        raise OptionError("weights", problem, "fetch the model again") from None
    if told["missing_keys"]:
        names = ", ".join(sorted(told["missing_keys"])[:3])
        raise OptionError("weights", f"lack {names}", "a model that was trained to classify, not a bare encoder")
    model.eval()

    def run(ids: Ids) -> Floats:
        with torch.inference_mode():
            rows = torch.from_numpy(ids)
            logits = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
        return np.asarray(logits.numpy(), dtype=np.float32)

    return run
