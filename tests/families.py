"""Tiny models of any architecture that converts, made of its own rules and items: no checkpoint, no PyTorch.

Shapes are what the plan asks for, names of tensors what the rules have, metadata what the items make of a config.json.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggufpy import format as gguf
from ggufpy import models
from ggufpy.convert.export import InFile
from ggufpy.convert.folder import open_folder
from ggufpy.convert.model import understood
from ggufpy.convert.writing import write_safetensors
from ggufpy.format.rows import Rows
from ggufpy.models.base import Inventory, Keys
from ggufpy.models.checkpoint import Checkpoint, HfConfig, Rule, config_of, metadata
from ggufpy.models.op import Weight

VOCABULARY = 61


def made_from(config: Mapping[str, Any]) -> tuple[str, Checkpoint, HfConfig]:
    """Architecture, its checkpoints, and the config with what it leaves out."""
    name, checkpoint = models.checkpoint_of(config["architectures"], HfConfig(config))
    return name, checkpoint, checkpoint.completed(HfConfig(config))


def _names(rules: Iterator[Rule], extras: str) -> dict[str, Any]:
    """Tensors of the file; of optional ones those that `extras`, a pattern, finds."""
    return {name: rule.made for rule in rules if not rule.optional or re.search(extras, rule.gguf[0])
            for name in rule.gguf}  # fmt: skip


def write(path: Path, config: Mapping[str, Any], extras: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random F32 weights. `config` is a config.json."""
    name, checkpoint, hf = made_from(config)
    values = {key: typed.value for key, typed in metadata(checkpoint, name, hf).items()}
    values["general.architecture"] = name
    names, asked = _names(checkpoint.rules(hf), extras), dict[str, tuple[int, ...]]()

    def weight(table: Inventory, tensor: str, *shape: int) -> Weight:
        assert tensor in names, f"{tensor} is in no rule"
        asked[tensor] = shape
        return Weight(tensor, shape)

    table = {tensor: SimpleNamespace(shape=(0,), type="F32", name=tensor) for tensor in names}
    table["token_embd.weight"].shape = (VOCABULARY, hf.width)
    with monkeypatch.context() as patch:
        patch.setattr(Inventory, "weight", weight)
        patch.setattr(Inventory, "finish", lambda table: None)
        models.find(name).plan(Keys(values), table)
    assert set(asked) == set(names), "rules and plan differ"
    rng = np.random.default_rng(4)
    made = {tensor: _random(rng, tensor, shape) for tensor, shape in asked.items()}
    gguf.write(path, metadata(checkpoint, name, hf) | {"general.architecture": name}, made)
    return path


def _random(rng: Any, name: str, shape: Sequence[int]) -> Any:
    values = rng.standard_normal(shape)
    if len(shape) > 1:
        return (values / math.sqrt(shape[-1])).astype(np.float32)
    return ((1.0 if name.endswith("norm.weight") else 0.0) + 0.2 * values).astype(np.float32)


def there_and_back(file: Any, folder: Path) -> tuple[dict[str, Any], Mapping[str, Rows], dict[str, Any]]:
    """The file as a checkpoint's folder, read again: metadata of the architecture, tensors, and the config.json."""
    name = file.metadata["general.architecture"]
    checkpoint = vars(models.find(name))["checkpoint"]
    tensors = {tensor: InFile(stored) for tensor, stored in file.tensors.items()}
    config = config_of(checkpoint, name, file.metadata, tensors)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    back: dict[str, Rows] = {}
    used: set[str] = set()
    for rule in checkpoint.rules(checkpoint.completed(HfConfig(config))):
        if set(rule.gguf) <= set(tensors) and not used & set(rule.gguf) and rule.made is None:
            used |= set(rule.gguf)
            back |= dict(zip(rule.hf, rule.change.backward([tensors[one] for one in rule.gguf]), strict=True))
    write_safetensors(folder / "model.safetensors", back)
    model = understood(open_folder(folder))
    assert model.architecture == name
    keys = metadata(model.checkpoint, name, model.config)
    return {key: typed.value for key, typed in keys.items()}, model.tensors, config
