"""What a caller may ask of a conversion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from ggufpy.errors import GGUFError
from ggufpy.quantizer import FileType, QuantizeOptions, file_type
from ggufpy.quantizer.types import COPY, FILE_TYPES
from ggufpy.support import checks
from ggufpy.support.records import dataclass

AUTO = "auto"


@dataclass(frozen=True)
class ConvertOptions:
    """How a checkpoint is converted. GGUFError where a value cannot be.

    `outtype` is a file type that `quantize` takes, or "auto": every tensor as the checkpoint has it, quantised ones in
    the blocks that have the same numbers, or the nearest. `keep` refuses quantised tensors that no blocks are the same
    as. `no_vocab` writes weights alone, for those who give tokens. `name` is what the model is called, `metadata` a
    file of JSON with keys that win over what is found. `lora` are folders of PEFT adapters that are added to the
    weights, times a scale. `dense`: with the dense layers that sentence-transformers puts behind the pooling.
    `quantize` has everything else that a quantisation takes.
    """

    outtype: str = AUTO
    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    keep: bool = False
    vocab_only: bool = False
    no_vocab: bool = False
    allow_pickle: bool = False
    name: str | None = None
    metadata: Path | None = None
    lora: Sequence[tuple[str | os.PathLike[str], float]] = ()
    dense: bool = True

    def __post_init__(self) -> None:
        for name in ("keep", "vocab_only", "no_vocab", "allow_pickle"):
            checks.flag(name, getattr(self, name))
        if self.file_type.name == COPY and self.outtype != AUTO:
            raise GGUFError("outtype COPY is called auto where a checkpoint is converted")
        if self.vocab_only and self.no_vocab:
            raise GGUFError("a vocabulary alone, without a vocabulary, is nothing: leave out one of them")
        if self.name is not None:
            checks.text("name", self.name)
        for pair in checks.items("lora", self.lora, "a list of (folder, scale) pairs"):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise GGUFError(f"lora holds {checks.shown(pair)}; (folder, scale) pairs are wanted")
            checks.path("the adapter", pair[0], "the path of a folder (str or Path)")
            checks.number("the scale of an adapter", pair[1])
        if self.vocab_only and len(self.lora):
            raise GGUFError("a vocabulary alone has no weights that an adapter could be added to: leave it out")

    @property
    def file_type(self) -> FileType:
        """The type that is asked for."""
        return FILE_TYPES[COPY] if self.outtype == AUTO else file_type(self.outtype)
