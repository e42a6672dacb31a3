"""`LlamaState`: what a model knew of a text, to be gone back to (llama_cpp.LlamaState)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate import snapshots
from ggufpy.support import checks

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LlamaState:
    """The attributes of llama-cpp-python's class; made by `Llama.save_state`, for `Llama.load_state`.

    `input_ids` are the tokens, int32 (n_tokens,); `scores` their logits, float32 (n_tokens, n_vocab) of a model that
    keeps all (logits_all), else (1, n_vocab), the last; `llama_state` the bytes that everything is restored from, of
    which there are `llama_state_size`; `seed` what random numbers go on from, None where these go on as they are.
    Another process may have them, by `save` and `load` or pickled: of the same model with the same types of cache.
    """

    def __init__(
        self,
        input_ids: NDArray[Any],
        scores: NDArray[Any],
        n_tokens: int,
        llama_state: bytes,
        llama_state_size: int,
        seed: int | None,
    ) -> None:
        self.input_ids = input_ids
        self.scores = scores
        self.n_tokens = n_tokens
        self.llama_state = llama_state
        self.llama_state_size = llama_state_size
        self.seed = seed

    @classmethod
    def of_bytes(cls, data: bytes, name: str = "the state") -> LlamaState:
        """The state that these bytes hold (`llama_state` of another). Raises GGUFError for others."""
        import numpy as np

        saved = snapshots.decode(data, name)
        tokens = () if saved.snapshot is None else saved.snapshot.tokens
        rows = np.zeros((0, 0), np.float32) if saved.logits is None else saved.logits[None].copy()
        return cls(np.array(tokens, np.intc), rows, len(tokens), data, len(data), saved.seed)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LlamaState:
        """The state in a file. Raises GGUFError for a file that cannot be read, is none or is damaged."""
        return cls.of_bytes(snapshots.read(path), os.fspath(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file, which is whole or not there. Raises GGUFError where it cannot be written."""
        snapshots.write(path, self.checked())

    @property
    def model(self) -> str:
        """Which model it is of: two of the same name and digits can be loaded by one another."""
        return snapshots.read_head(memoryview(self.checked()), "the state").model

    def checked(self) -> bytes:
        """`llama_state`. Raises GGUFError unless it is bytes of the size that is said."""
        data = self.llama_state
        if not isinstance(data, bytes) or len(data) != self.llama_state_size:
            raise GGUFError(f"llama_state is {checks.shown(data)}; {self.llama_state_size} bytes are wanted")
        return data
