"""Checkpoints of Hugging Face to GGUF, in one step: read, put in order, quantised and written, a few rows at a time.

In: a folder and `ConvertOptions`. Out: a GGUF file, whole or not at all, and a `Report` of what it cost.
"""

from __future__ import annotations

from ggufpy.convert.options import ConvertOptions
from ggufpy.convert.run import convert

__all__ = ["ConvertOptions", "convert"]
