"""A checkpoint as what will be in the file: metadata and tensors by the names of GGUF, none of them read yet.

In: an open `Folder`. Out: a `Converted`, which the quantiser takes as it takes an open file. The forward pass is
planned from it as from a file, so whatever would not run is refused before anything is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from ggufpy import models
from ggufpy.convert import storage
from ggufpy.convert.folder import Folder
from ggufpy.convert.merging import with_adapters
from ggufpy.convert.names import canonical, not_text
from ggufpy.convert.peft import Peft
from ggufpy.convert.sentence import left_out, read_weights
from ggufpy.errors import GGUFError
from ggufpy.format.metadata import Metadata
from ggufpy.format.reader import Shard
from ggufpy.format.rows import NamedRows, Opened, Plain, Rows
from ggufpy.format.values import Typed, shown
from ggufpy.format.writer import header
from ggufpy.models.base import Keys
from ggufpy.models.checkpoint import Checkpoint, HfConfig, Rule, metadata
from ggufpy.support.records import dataclass

# Matrices that are F32 in every file of llama.cpp, besides all vectors and norms (conversion/base.py).
_ALWAYS_F32 = re.compile(
    r"(?:ffn_gate_inp(?:_shexp)?|position_embd|token_types|ssm_conv1d|shortconv\.conv|_norm)\.weight$"
)
_EXPERT = re.compile(r"^(.*\blayers?\.([0-9]{1,9})\..*experts)\.([0-9]{1,9})\.")
# All experts of a layer in one tensor, (experts, …), as transformers, MXFP4 and Granite have them.
_STACK = re.compile(r"\blayers?\.\d+\..*(?:experts|block_sparse_moe)\.[a-z_]+(?:_proj|_linear)(?:\.weight)?$")

_LAYER = re.compile(r"^model\.layers\.([0-9]{1,9})\.")
_PREDICTS = re.compile(r"(?:^|\.)mtp[._]")


@dataclass(frozen=True)
class Converted:
    """What is written: `metadata` and `tensors`, of the `files` read; `notes` are for the user."""

    architecture: str
    metadata: Metadata
    tensors: Mapping[str, NamedRows]
    files: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Model:
    """A checkpoint that is understood, before its vocabulary and its card are looked at."""

    architecture: str
    checkpoint: Checkpoint
    config: HfConfig
    tensors: Mapping[str, Rows]
    notes: Sequence[str]


def understood(folder: Folder, adapters: Sequence[tuple[Peft, float]] = ()) -> Model:
    """The architecture of a checkpoint and its tensors by the names of GGUF, changed by `adapters` times their scales.

    Raises GGUFError for an architecture or a storage format that nothing here knows, and for tensors that are missing
    or that no rule takes.
    """
    architecture, checkpoint, config = known(folder.config)
    stored_as, logical = storage.logical(folder.config, folder.tensors)
    stored = canonical(logical, checkpoint.anchor)
    tensors = with_adapters(stored, adapters, checkpoint.anchor)
    config, notes = _with_experts(config, checkpoint, tensors)
    if stored_as:
        notes.append(f"the weights are stored as {stored_as}")
    rules = list(checkpoint.rules(config))
    beside = {name for rule in rules for name in rule.hf} - set(tensors)
    apart = read_weights(folder.path, config.values, beside)
    taken = _Taken({**tensors, **apart}, {name for name in tensors if tensors[name] is not stored[name]})
    for rule in rules:
        taken.apply(rule, config)
    made = taken.finish(checkpoint, config)
    said = metadata(checkpoint, architecture, config)
    notes += [*taken.notes, *left_out(config, architecture, {*made, *said})]
    return Model(architecture, checkpoint, config, made, notes)


def known(config: Mapping[str, object]) -> tuple[str, Checkpoint, HfConfig]:
    """The architecture that config.json is of, its checkpoints, and the values with what its classes take for those
    that are left out. Raises GGUFError for one that nothing here knows."""
    said = text_config(config)
    architecture, checkpoint = models.checkpoint_of(architectures(config), said)
    return architecture, checkpoint, checkpoint.completed(said)


def architectures(config: Mapping[str, object]) -> list[str]:
    """config.json's architectures: those of the model itself, then those of its text half."""
    said: list[str] = []
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            names = part.get("architectures") or []
            said += [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return said


def text_config(config: Mapping[str, object]) -> HfConfig:
    """config.json with what it says of the text half of a multimodal model beside the rest, where rules look."""
    inner = config.get("text_config", config.get("llm_config"))
    return HfConfig({**config, **inner}) if isinstance(inner, Mapping) else HfConfig(config)


def _with_experts(config: HfConfig, checkpoint: Checkpoint, tensors: Mapping[str, Rows]) -> tuple[HfConfig, list[str]]:
    """The config with as many experts as there are: pruned models may have fewer than it says, in all layers alike.

    Layers that predict further tokens do not count: they are left out, and who prunes may leave them as they are.
    """
    if not checkpoint.experts or checkpoint.experts not in config:
        return config, []
    counts: dict[str, set[int]] = {}
    for name in tensors:
        match = _EXPERT.match(name)
        if match is not None and not _predicts(name, config):
            counts.setdefault(match[1], set()).add(int(match[3]))
    said = config.count(checkpoint.experts, least=0)
    stacks = {rows.shape[0] for name, rows in tensors.items() if len(rows.shape) == 3 and _STACK.search(name)}
    lengths = stacks | {len(numbers) for numbers in counts.values()}
    if not lengths or lengths == {said}:
        most = max((rows.shape[0] for rows in tensors.values() if len(rows.shape) > 2), default=0)
        if said > max(most, *lengths, 0):
            raise GGUFError(f"config.json says that there are {said} experts, and no tensor is of so many")
        return config, []
    if len(lengths) > 1 or any(numbers != set(range(len(numbers))) for numbers in counts.values()):
        raise GGUFError(
            f"layers have {min(lengths)} to {max(lengths)} experts, of {said} that config.json says: the checkpoint is "
            "not whole, or pruned in a way that no file can say"
        )
    (there,) = lengths
    if there > said:
        raise GGUFError(f"layers have {there} experts, and config.json says {said}")
    names = [name for name in checkpoint.experts.split("|") if config.values.get(name) is not None]
    notes = [f"the model was pruned: {there} experts of {said} are there"]
    return config.replaced(**dict.fromkeys(names, there)), notes


def _predicts(name: str, config: HfConfig) -> bool:
    """Whether a tensor is of the modules behind the last layer that predict further tokens."""
    match = _LAYER.match(name)
    if match is None or "num_nextn_predict_layers|num_mtp_layers" not in config:
        return _PREDICTS.search(name) is not None
    return int(match[1]) >= config.layers


class _Taken:
    """Rules applied to tensors, with an account of what was used. `adapted` are those that adapters change."""

    def __init__(self, tensors: Mapping[str, Rows], adapted: Set[str]) -> None:
        self._tensors, self._adapted, self._used = tensors, adapted, set[str]()
        self._made: dict[str, Rows] = {}
        self._missing: dict[str, str] = {}  # what a tensor of the file lacks, by its name
        self.notes: list[str] = []

    def apply(self, rule: Rule, config: HfConfig) -> None:
        """Makes the rule's tensors, if they are not there yet and what they are made of is."""
        if rule.gguf[0] in self._made:
            return
        if rule.made is not None:
            self._made[rule.gguf[0]] = rule.made
            return
        lacking = next((name for name in rule.hf if name not in self._tensors), None)
        if lacking is not None:
            if not rule.optional or any(name in self._tensors for name in rule.hf):
                self._missing.setdefault(rule.gguf[0], lacking)
            return
        for name in rule.hf:
            if 0 in self._tensors[name].shape:
                raise GGUFError(f"tensor {shown(name)} has the shape {list(self._tensors[name].shape)}, and no numbers")
        self._used |= set(rule.hf)
        for name in rule.gguf:
            self._missing.pop(name, None)
        if config.flag("tie_word_embeddings") and self._is_tied(rule):
            return  # the embedding is the output; what else is there goes unused in transformers, too
        try:
            made = rule.change.forward([self._tensors[name] for name in rule.hf])
        except GGUFError as e:
            raise GGUFError(f"tensor {shown(rule.hf[0])}: {e}") from None
        self._made |= dict(zip(rule.gguf, made, strict=True))

    def _is_tied(self, rule: Rule) -> bool:
        """Whether it makes a head in a model whose embedding is its head. GGUFError where an adapter changes that."""
        adapted = not self._adapted.isdisjoint(rule.hf)
        if adapted and rule.gguf[0] == "output.weight":
            raise GGUFError(f"an adapter changes {shown(rule.hf[0])}, and the model's head is its embedding")
        if adapted and rule.gguf[0] == "token_embd.weight":
            self.notes.append("an adapter changes the embedding, and with it the head of the model, which is the same")
        return rule.gguf[0] == "output.weight"

    def finish(self, checkpoint: Checkpoint, config: HfConfig) -> dict[str, Rows]:
        """All that was made. GGUFError for tensors that are missing, and for some that nobody took."""
        for name in self._missing.values():
            raise GGUFError(f"tensor {shown(name)} is missing from the checkpoint: download it again, with config.json")
        left = [name for name in self._tensors if name not in self._used]
        left = [name for name in left if not any(re.search(pattern, name) for pattern in checkpoint.ignored)]
        predicting = [name for name in left if _predicts(name, config)]
        if predicting:
            self.notes.append(f"left out: what predicts further tokens (MTP, {len(predicting)} tensors)")
            left = sorted(set(left) - set(predicting))
        other = Counter(name.split(".layers.")[0].rsplit(".", 2)[0] for name in left if not_text(name))
        if other:
            parts = ", ".join(f"{shown(name)} ({count} tensors)" for name, count in other.most_common(4))
            self.notes.append(f"only the text half is converted; left out: {parts}")
        strange = [name for name in left if not not_text(name)]
        if strange:
            more = f" and {len(strange) - 4} more" if len(strange) > 4 else ""
            raise GGUFError(
                f"the checkpoint has tensors that its architecture has not, and they would be lost: "
                f"{', '.join(map(shown, strange[:4]))}{more}"
            )
        return self._made


def converted(model: Model, made: Metadata, files: Sequence[str], notes: Sequence[str] = ()) -> Converted:
    """The model with its metadata. GGUFError for one that would not run."""
    tensors = {name: NamedRows(name, as_written(name, rows)) for name, rows in model.tensors.items()}
    try:
        models.find(model.architecture).plan(Keys(made), tensors)
    except GGUFError as e:
        raise GGUFError(f"the checkpoint does not fit its config.json: {e}; take both from one model") from None
    return Converted(model.architecture, made, tensors, files, [*model.notes, *notes])


def all_keys(
    architecture: str, about: Mapping[str, Typed], own: Mapping[str, Typed], said: Mapping[str, Typed]
) -> Metadata:
    """What a file says: what the folder has of the model, what its config.json has, and what the user said, which wins.

    The user's numbers are of the types that those keys have. GGUFError for values that are not.
    """
    values = {"general.architecture": Typed("string", architecture), **about, **own}
    values |= {key: replace(value, type=values.get(key, value).type) for key, value in said.items()}
    return Shard("the checkpoint", header(values)).metadata


def as_written(name: str, rows: Rows) -> Rows:
    """F32 for vectors, norms and what llama.cpp keeps so, also where it is quantised; F64 is F32 always."""
    always = len(rows.shape) <= 1 or not name.endswith(".weight") or _ALWAYS_F32.search(name) is not None
    if always and (rows.type != "F32" or rows.quantised):
        return Opened(rows, "F32")
    return Plain(rows, "F32") if rows.type == "F64" else rows


def of_path(path: Path) -> Path:
    """A folder as a user may name it: config.json within it will do."""
    return path.parent if path.name == "config.json" else path
