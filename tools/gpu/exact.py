"""How far a model's logits are from those of float64 arithmetic on the same weights."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from peers.worker import some_tokens

from ggufpy import format as gguf_format
from ggufpy.backends.cpu.model import read_plan
from ggufpy.generate.loading import LoadOptions, load_parts
from ggufpy.models.interpreter import Interpreter

TOKENS = 96
MOST = {"decode": 0.0035, "prompt": 0.0005}  # nats a token


@dataclass(frozen=True)
class Divergences:
    """Mean KL divergence of tokens evaluated one by one, and of those of a prompt."""

    decode: float
    prompt: float

    def faults(self) -> list[str]:
        """What is more than it may be, or is no number."""
        return [
            f"KL divergence in {name} is {value:.5f}, more than {MOST[name]}"
            for name, value in (("decode", self.decode), ("prompt", self.prompt))
            if not value <= MOST[name]
        ]


def divergences(path: str | os.PathLike[str], layers: int | str) -> Divergences:
    """Of a model with layers on the card, on a text that is no text: its tokens are the same in each run."""
    parts = load_parts(path, LoadOptions(n_ctx=2 * TOKENS, text=False, n_gpu_layers=layers))
    engine = parts.engine
    try:
        ids = some_tokens(TOKENS, engine.n_vocab)
        truth = exact(path, ids)
        return Divergences(*(
            divergence(truth, engine.read(engine.sequence(), ids, "all", exact=by_one)) for by_one in (True, False)
        ))  # fmt: skip
    finally:
        engine.close()


def exact(path: str | os.PathLike[str], ids: list[int]) -> NDArray[np.float64]:
    """Logits of each token."""
    file = gguf_format.open(path)
    try:
        values = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
        return Interpreter(read_plan(file), values).logits(ids)
    finally:
        file.close()


def divergence(truth: NDArray[np.float64], logits: NDArray[np.float32]) -> float:
    """The mean over rows of sum p log(p / q), in nats."""
    p, q = (_log_softmax(each.astype(np.float64)) for each in (truth, logits))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
