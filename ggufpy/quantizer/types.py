"""The file types that llama-quantize knows: their names, their numbers, the tensor type that each begins with.

Sources: `llama_ftype` in llama.cpp's include/llama.h, `llama_ftype_get_default_type` in src/llama-quant.cpp, and the
table of names in tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

FLOATS = ("F32", "F16", "BF16", "F64")
WHOLE = ("I8", "I16", "I32", "I64")
COPY = "COPY"


@dataclass(frozen=True)
class FileType:
    """A file type: `number` is what general.file_type holds, `default` the type of a tensor that no rule names."""

    name: str
    number: int
    default: str

    @property
    def mixes(self) -> bool:
        """Whether tensors of such a file are in blocks, so that the rules for each tensor apply."""
        return self.default not in FLOATS and self.name != COPY


def _table(*rows: tuple[str, int, str]) -> Mapping[str, FileType]:
    return MappingProxyType({name: FileType(name, number, default) for name, number, default in rows})


FILE_TYPES = _table(
    ("F32", 0, "F32"), ("F16", 1, "F16"), ("BF16", 32, "BF16"),
    ("Q4_0", 2, "Q4_0"), ("Q4_1", 3, "Q4_1"), ("Q5_0", 8, "Q5_0"), ("Q5_1", 9, "Q5_1"), ("Q8_0", 7, "Q8_0"),
    ("Q2_K", 10, "Q2_K"), ("Q2_K_S", 21, "Q2_K"),
    ("Q3_K_S", 11, "Q3_K"), ("Q3_K_M", 12, "Q3_K"), ("Q3_K_L", 13, "Q3_K"),
    ("Q4_K_S", 14, "Q4_K"), ("Q4_K_M", 15, "Q4_K"),
    ("Q5_K_S", 16, "Q5_K"), ("Q5_K_M", 17, "Q5_K"), ("Q6_K", 18, "Q6_K"),
    ("IQ1_S", 24, "IQ1_S"), ("IQ1_M", 31, "IQ1_M"),
    ("IQ2_XXS", 19, "IQ2_XXS"), ("IQ2_XS", 20, "IQ2_XS"), ("IQ2_S", 28, "IQ2_XS"), ("IQ2_M", 29, "IQ2_S"),
    ("IQ3_XXS", 23, "IQ3_XXS"), ("IQ3_XS", 22, "IQ3_S"), ("IQ3_S", 26, "IQ3_S"), ("IQ3_M", 27, "IQ3_S"),
    ("IQ4_NL", 25, "IQ4_NL"), ("IQ4_XS", 30, "IQ4_XS"),
    ("TQ1_0", 36, "TQ1_0"), ("TQ2_0", 37, "TQ2_0"), ("Q1_0", 40, "Q1_0"), ("Q2_0", 41, "Q2_0"),
    ("MXFP4_MOE", 38, "MXFP4"), ("NVFP4", 39, "NVFP4"),
    (COPY, 0, ""),
)  # fmt: skip
ALIASES = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"})


def file_type(name: str) -> FileType:
    """The file type called `name` (any case), or numbered so ("15"). GGUFError, with names that are close."""
    upper = checks.text("the file type", name).upper()
    upper = ALIASES.get(upper, upper)
    if upper in FILE_TYPES:
        return FILE_TYPES[upper]
    if name.isdecimal():
        for known in FILE_TYPES.values():
            if known.number == int(name) and known.name != COPY:
                return known
    near = difflib.get_close_matches(upper, FILE_TYPES, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(FILE_TYPES)}"
    raise GGUFError(f"there is no file type {name[:40]!r}: {hint}")
