"""Convert a Hugging Face checkpoint: python examples/convert_checkpoint.py ./SmolLM2-135M model-q4.gguf Q4_K_M"""

import sys

import ggufpy
from ggufpy.convert import ConvertOptions, convert

folder, target, type_name = sys.argv[1:4]
try:
    report = convert(folder, target, ConvertOptions(type_name))
except ggufpy.GGUFError as error:
    raise SystemExit(f"convert_checkpoint: {error}") from None
for line in (*report.notes, *report.table()):
    print(line)
