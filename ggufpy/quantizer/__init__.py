"""Quantising whole files: the type of every tensor as llama-quantize chooses it, and the work, tensor by tensor.

In: a GGUF file, the name of a file type and `QuantizeOptions`. Out: a GGUF file, and a `Report` of what it cost.
"""

from __future__ import annotations

from ggufpy.quantizer.options import QuantizeOptions
from ggufpy.quantizer.report import Report, TensorReport
from ggufpy.quantizer.stream import quantize_file
from ggufpy.quantizer.types import FILE_TYPES, FileType, file_type

__all__ = ["FILE_TYPES", "FileType", "QuantizeOptions", "Report", "TensorReport", "file_type", "quantize_file"]
