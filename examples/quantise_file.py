"""Quantise a model from Python: python examples/quantise_file.py model-f16.gguf model-q4.gguf Q4_K_M"""

import sys

from ggufpy.quantizer import QuantizeOptions, quantize_file

source, target, type_name = sys.argv[1:4]
report = quantize_file(source, target, type_name, QuantizeOptions())
for tensor in report.tensors:
    print(f"{tensor.name}: {tensor.source} -> {tensor.target}, {tensor.bytes:,} bytes")
print(f"{report.bytes_in:,} -> {report.bytes_out:,} bytes, {report.bits_per_weight:.2f} bits a weight")
