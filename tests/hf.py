"""What tests of architectures share: random checkpoints made with transformers, and its logits as the truth."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differences import noted

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export
from ggufpy.runtime import EngineOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

VOCABULARY = 96
LIMIT = 2e-3  # of the range of the exact logits


def checkpoint(folder: Path, config: Any, seed: int = 0, model: Any = None, dtype: Any = None) -> Any:
    """A random checkpoint in `folder`, as transformers saves it. Norms and biases are random, too: what is left out
    must show. Returns the model in float32."""
    torch.manual_seed(seed)
    made = (model or transformers.AutoModelForCausalLM.from_config)(config).float().eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if value.ndim == 1:
                shift = 1.0 if name.endswith("weight") and float(value.mean()) > 0.5 else 0.0
                value.copy_(shift + 0.2 * torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) / value.shape[-1] ** 0.5)
        made.tie_weights()
        if dtype is not None:  # not the buffers: transformers has angles in float32 always
            for value in made.parameters():
                value.copy_(value.to(dtype))
    (made if dtype is None else copy.deepcopy(made).to(dtype)).save_pretrained(folder)
    return made


def truth(model: Any, tokens: Any) -> Any:
    """Logits (tokens, vocabulary) of one text."""
    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).logits[0].float().numpy().astype(np.float64)


def difference(exact: Any, ours: Any) -> float:
    """The largest error over the range of the exact values."""
    return float(np.abs(exact - ours).max() / (exact.max() - exact.min()))


def ours(path: Path, tokens: Any) -> tuple[Any, Any]:
    """Logits of a file as a prompt and token by token."""
    options = EngineOptions(n_ctx=len(tokens))
    with gguf.open(path) as file, runtime.load(file, options) as engine:
        prompt = engine.read(engine.sequence(), tokens, "all")
        sequence = engine.sequence()
        single = np.concatenate([engine.read(sequence, [token], "all") for token in tokens])
    return prompt, single


def agrees(path: Path, tokens: Any, exact: Any, limit: float = LIMIT) -> None:
    """A file gives these logits, as a prompt and token by token."""
    with gguf.open(path) as file:
        name = file.metadata["general.architecture"]
    for what, logits in zip(("prompt", "by token"), ours(path, tokens), strict=True):
        assert noted(name, what, difference(exact, logits)) <= limit, what


def check(folder: Path, config: Any, length: int = 40, limit: float = LIMIT, **made: Any) -> dict[str, Any]:
    """A random checkpoint of `config` converts to F32 and gives transformers' logits, and is exported bit for bit.

    Returns the metadata of the file.
    """
    model = checkpoint(folder / "hf", config, **made)
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, length).tolist()
    path = folder / "model.gguf"
    convert(folder / "hf", path, ConvertOptions("F32", no_vocab=True))
    exact = truth(model, tokens)
    agrees(path, tokens, exact, limit)
    with gguf.open(path) as file:
        export(file, folder / "back", "BF16" if made.get("dtype") is torch.bfloat16 else None)
        same_tensors(folder / "hf", folder / "back")
        again = transformers.AutoModelForCausalLM.from_pretrained(folder / "back", dtype=torch.float32).eval()
        error = noted(file.metadata["general.architecture"], "exported", difference(exact, truth(again, tokens)))
        assert error < 1e-6, "exported"
        return dict(file.metadata)


def same_tensors(before: Path, after: Path) -> None:
    """Both folders have the same tensors, bit for bit."""
    a, b = ({name: tensor for file in sorted(folder.glob("*.safetensors"))
             for name, tensor in safetensors_torch.load_file(file).items()} for folder in (before, after))  # fmt: skip
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def config_json(folder: Path, **changes: Any) -> None:
    """Changes values of a saved checkpoint's config.json; None takes one out."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def hidden_truth(model: Any, tokens: Any) -> Any:
    """The final hidden state (tokens, width) of one text."""
    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).last_hidden_state[0].float().numpy().astype(np.float64)


def check_encoder(folder: Path, config: Any, length: int = 40, limit: float = LIMIT, **made: Any) -> dict[str, Any]:
    """As `check`, of a model without logits: its final hidden state, of a text in one step."""
    model = checkpoint(folder / "hf", config, model=transformers.AutoModel.from_config, **made)
    tokens = np.random.default_rng(5).integers(5, VOCABULARY, length).tolist()
    path = folder / "model.gguf"
    convert(folder / "hf", path, ConvertOptions("F32", no_vocab=True))
    exact = hidden_truth(model, tokens)
    with gguf.open(path) as file:
        with runtime.load(file, EngineOptions(n_ctx=length)) as engine:
            rows = engine.read(engine.sequence(), tokens, "all", hidden=True)
        assert noted(file.metadata["general.architecture"], "prompt", difference(exact, rows)) <= limit
        export(file, folder / "back")
        again = transformers.AutoModel.from_pretrained(folder / "back", dtype=torch.float32).eval()
        error = noted(file.metadata["general.architecture"], "exported", difference(exact, hidden_truth(again, tokens)))
        assert error < 1e-6, "exported"
        return dict(file.metadata)
