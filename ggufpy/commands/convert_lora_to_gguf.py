"""`ggufpy convert-lora-to-gguf`: a LoRA adapter that PEFT saved to a GGUF adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "make a GGUF adapter of a LoRA adapter that PEFT saved"
DESCRIPTION = """Write the LoRA adapter in FOLDER (adapter_config.json, adapter_model.safetensors) as a GGUF file.

The file changes a model while it runs: 'ggufpy run MODEL --lora OUT'. To have it in the weights for good, convert the
model with 'ggufpy convert DIR --lora FOLDER'. BASE is the folder of the model that the adapter is for, of which
config.json is read; without it, what adapter_config.json names, if that is a folder.
JSON: file, weights (the names of those that it changes).

examples:
  convert-lora-to-gguf ./my-adapter --base ./SmolLM2-135M-Instruct --outfile my-adapter.gguf
  ggufpy run smollm2.gguf --lora my-adapter.gguf=0.5 -p "Hi\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `convert-lora-to-gguf`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the adapter")
    parser.add_argument("--base", type=Path, metavar="BASE", help="folder of the model that it is for")
    parser.add_argument(
        "-o", "--output", "--outfile", type=Path, metavar="OUT", help="the .gguf file to write (default: in FOLDER)"
    )
    parser.add_argument("--type", "--outtype", dest="type", default="F16", metavar="TYPE", help="F32, F16 (default), "
                        "BF16 or Q8_0")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was written or one object of JSON."""
    from ggufpy.convert.adapter import convert_adapter

    target = args.output or args.folder / f"{args.folder.resolve().name}-{args.type.upper()}-LoRA.gguf"
    weights = convert_adapter(args.folder, target, args.base, args.type)
    if args.json:
        print(json.dumps({"file": str(target), "weights": weights}))
        return 0
    print(f"{target}: changes {len(weights)} weights")
    return 0
