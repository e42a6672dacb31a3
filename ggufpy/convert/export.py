"""A GGUF file back to a folder as Hugging Face has them: config.json, safetensors, the tokenizer's files, a card.

In: an open file. Out: a folder, whole or not at all. Rules of the architecture are gone through backwards; tensors in
blocks become BF16, plain ones stay what they are, and vectors that a file keeps as F32 go back to the type of the
matrices where no bit is lost.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggufpy import models
from ggufpy.convert.card_export import card_of
from ggufpy.convert.general import SAMPLING
from ggufpy.convert.sentence import KEYS, weight_names, write_modules
from ggufpy.convert.vocabulary.export import export_vocabulary
from ggufpy.convert.writing import write_json, write_safetensors
from ggufpy.errors import GGUFError
from ggufpy.format import GGUFFile, Tensor
from ggufpy.format.atomic import check_space, sync_folder
from ggufpy.format.rows import FLOATS, Bytes, Plain, Rows
from ggufpy.format.split import hidden_folder
from ggufpy.format.values import shown
from ggufpy.models.base import Keys
from ggufpy.models.checkpoint import Checkpoint, HfConfig, Rule, config_of, shortest
from ggufpy.support import checks
from ggufpy.support.records import dataclass

SHARD_BYTES = 5_000_000_000
SMALL = 1 << 22  # numbers of a tensor that is looked through for bits that a shorter type would lose
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_IDS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Exported:
    """What was written: files in their folder, bytes of weights, the type of the matrices, and lines for the user."""

    files: tuple[str, ...]
    bytes_out: int
    dtype: str
    notes: tuple[str, ...] = ()


class InFile(Rows):
    """A tensor of an open file."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensor.shape

    @property
    def type(self) -> str:
        return self._tensor.type

    @property
    def quantised(self) -> bool:
        return self.type not in FLOATS

    def rows(self, start: int, stop: int) -> Bytes:
        return self._tensor.rows(start, stop)

    def release(self) -> None:
        self._tensor.release()


def export(file: GGUFFile, folder: Path, dtype: str | None = None, progress: Progress = _silent) -> Exported:
    """Write `file` to `folder`, which must not be there yet or be empty. `dtype`: "F32", "F16" or "BF16" for all.

    Raises GGUFError for an architecture whose checkpoints nothing here knows, a file that is no whole model, and a
    folder that has something in it.
    """
    architecture, checkpoint = _checkpoint_of(file)
    models.find(architecture).plan(Keys(file.metadata), file.tensors)  # refuses what is no whole model
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GGUFError(f"{folder} is there and not empty: give the name of a new folder")
    main = dtype or _main_type(file)
    config = _config(file, architecture, checkpoint, main)
    tensors = {name: _typed(rows, main, dtype) for name, rows in _tensors(file, checkpoint, config).items()}
    check_space(folder, sum(rows.nbytes for rows in tensors.values()))
    sentence = {key: config.pop(key) for key in KEYS if key in config}
    apart, width = weight_names(sentence), HfConfig(config).width
    own = {name: rows for name, rows in tensors.items() if name not in apart}
    folder = Path(os.path.realpath(folder))  # what a link leads to takes the files, and the link stays
    try:
        with hidden_folder(folder.parent) as room:
            stage = room / folder.name
            stage.mkdir()
            _write_configs(stage, file, config)
            size = write_modules(stage, sentence, width, tensors)
            size += _write_weights(stage, own, progress)
            notes = [*_vocabulary(file, stage), *_write_card(stage, file)]
            names = tuple(sorted(path.name for path in stage.iterdir()))
            sync_folder(stage)
            if folder.exists():
                folder.rmdir()
            os.rename(stage, folder)
            sync_folder(folder.parent)
    except OSError as e:
        raise GGUFError(f"cannot write {folder}: {e.strerror or e}") from None
    return Exported(names, size, main, tuple(notes))


def _write_configs(stage: Path, file: GGUFFile, config: dict[str, Any]) -> None:
    """config.json, and the file beside it that says how to sample and what ends a text."""
    write_json(stage / "config.json", config)
    generation = _generation(file.metadata, config)
    if generation:
        write_json(stage / "generation_config.json", generation)


def _checkpoint_of(file: GGUFFile) -> tuple[str, Checkpoint]:
    architecture = file.metadata.get("general.architecture")
    module = models.find(architecture if isinstance(architecture, str) else "")
    checkpoint = vars(module).get("checkpoint")
    if not isinstance(checkpoint, Checkpoint):
        raise GGUFError(f"general.architecture is {shown(str(architecture))}, whose checkpoints ggufpy does not know")
    return str(architecture), checkpoint


def _main_type(file: GGUFFile) -> str:
    """What the matrices become: the type that most of their numbers have, BF16 where those are in blocks."""
    count: Counter[str] = Counter()
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            count[tensor.type if tensor.type in _DTYPES else "BF16"] += math.prod(tensor.shape)
    return count.most_common(1)[0][0] if count else "F32"


def _config(file: GGUFFile, architecture: str, checkpoint: Checkpoint, main: str) -> dict[str, Any]:
    tensors = {name: InFile(tensor) for name, tensor in file.tensors.items()}
    config = config_of(checkpoint, architecture, file.metadata, tensors)
    config["vocab_size"] = int(file.tensors["token_embd.weight"].shape[0])
    config.setdefault("tie_word_embeddings", "output.weight" not in file.tensors)
    config["torch_dtype"] = _DTYPES[main]
    for name, key in _IDS.items():
        token = _token(file.metadata, key, config["vocab_size"])
        if token is not None or name not in config:  # defaults of transformers may lie beyond the vocabulary
            config[name] = token
    return config


def _token(values: Mapping[str, Any], key: str, words: int) -> int | None:
    """A token's id, None where a file has none or one beyond its vocabulary. GGUFError for what is no number."""
    token = checks.whole(key, values[key], 0) if key in values else words
    return token if token < words else None


def _generation(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json says where config.json has no words for it: nothing where that says it all.

    Several tokens that end a text, and what is recommended to sample with.
    """
    ends = [_token(values, key, config["vocab_size"]) for key in _ENDS]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    said: dict[str, Any] = {}
    for key, name, kind in SAMPLING:
        value = values.get(f"general.sampling.{key}")
        if value is not None:
            number = checks.number(f"general.sampling.{key}", value)
            said[name] = int(number) if kind == "int32" else shortest(number)
    if not said and len(ends) < 2:
        return {}
    ids: dict[str, Any] = {name: config[name] for name in _IDS if config[name] is not None}
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    return {**ids, **({"do_sample": True, **said} if said else {})}


def _tensors(file: GGUFFile, checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Rows]:
    """Tensors by the names of the checkpoint. GGUFError for one that no rule takes back."""
    made: dict[str, Rows] = {}
    used: set[str] = set()
    for rule in checkpoint.rules(HfConfig(config)):
        if rule.made is not None:
            used.add(rule.gguf[0])
        elif all(name in file.tensors for name in rule.gguf) and not used & set(rule.gguf):
            used |= set(rule.gguf)
            made |= dict(zip(rule.hf, _back(rule, file), strict=True))
    left = [name for name in file.tensors if name not in used and name != "rope_freqs.weight"]
    if left:
        raise GGUFError(f"tensor {shown(left[0])} has no place in a checkpoint of {checkpoint.classes[0]}")
    return made


def _back(rule: Rule, file: GGUFFile) -> list[Rows]:
    return list(rule.change.backward([InFile(file.tensors[name]) for name in rule.gguf]))


def _typed(rows: Rows, main: str, asked: str | None) -> Rows:
    """The tensor in the type of the matrices; as it is where it is plain and would lose something."""
    if rows.type == main:
        return rows
    shorter = Plain(rows, main)
    if asked is not None or rows.type not in _DTYPES:
        return shorter
    small = math.prod(rows.shape) <= SMALL
    return shorter if small and np.array_equal(shorter.to_numpy(), rows.to_numpy()) else rows


def _write_weights(folder: Path, tensors: Mapping[str, Rows], progress: Progress) -> int:
    """One file, or several of SHARD_BYTES and an index."""
    groups: list[dict[str, Rows]] = [{}]
    size = 0
    for name, rows in tensors.items():
        if size and size + rows.nbytes > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = rows
        size += rows.nbytes
    total, done = sum(rows.nbytes for rows in tensors.values()), 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress("export", done, total)

    if len(groups) == 1:
        write_safetensors(folder / "model.safetensors", tensors, advance)
        return total
    where: dict[str, str] = {}
    for i, group in enumerate(groups):
        name = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        write_safetensors(folder / name, group, advance)
        where |= dict.fromkeys(group, name)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "model.safetensors.index.json", index)
    return total


def _write_card(folder: Path, file: GGUFFile) -> list[str]:
    """README.md, where there is something to say; a line that names what it cannot say."""
    text, notes = card_of(file.metadata)
    if text:
        (folder / "README.md").write_text(text, "utf-8", newline="\n")
    return notes


def _vocabulary(file: GGUFFile, folder: Path) -> list[str]:
    """The tokenizer's files; a line where there are none."""
    if file.metadata.get("tokenizer.ggml.model", "none") in ("none", "no_vocab"):
        return ["the file has no vocabulary, and the folder has no tokenizer"]
    export_vocabulary(file.metadata, folder)
    return []
