"""`ggufpy convert`, also `convert-hf-to-gguf`: a Hugging Face checkpoint to GGUF in one step."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_threads_argument, argument_type, real, whole
from ggufpy.commands.quantize import tensor_type
from ggufpy.errors import GGUFError
from ggufpy.support import console
from ggufpy.support.options import ScaledPaths

if TYPE_CHECKING:
    from ggufpy.convert import ConvertOptions
    from ggufpy.support.progress import Progress

HELP = "make a GGUF file of a Hugging Face checkpoint, in any type"
DESCRIPTION = """Convert the checkpoint in folder DIR to a GGUF file, in one step and without PyTorch.

DIR has config.json, weights (.safetensors, one or sharded) and a tokenizer; hf:owner/repo is fetched first. Weights are
read, put in order and written a few rows at a time, so memory stays small however large the model is. OUT gets its
name when it is whole.

TYPE (--outtype) is one that 'ggufpy quantize' takes, such as Q4_K_M, Q8_0 or F16; or auto, the default:
  floats             stay what they are
  quantised weights  (GPTQ, AWQ, bitsandbytes, FP8, MXFP4, MLX and others) become the blocks of GGUF that have the same
                     numbers, which every block is compared for, or the nearest where none do
Where a type is named, quantised weights are still kept without loss if that takes no more bytes. --keep refuses what
cannot be kept without loss.

JSON: bytes_in, bytes_out, bits_per_weight, seconds, tensors [{name, shape, from, to, bytes, error}], files, notes.

examples:
  ggufpy convert ./SmolLM2-135M-Instruct -o smollm2-Q4_K_M.gguf --type Q4_K_M
  convert-hf-to-gguf ./my-model --outfile my-model-{ftype}.gguf --outtype q8_0
  ggufpy convert hf:owner/model-AWQ -o model.gguf
  ggufpy convert ./my-model -o m.gguf --type Q4_K_M --imatrix my-model.imatrix.gguf --tensor-type 'attn_v=Q8_0'
  ggufpy convert ./my-model -o m.gguf --type Q4_K_M --dry-run           how large it would be
  ggufpy convert ./my-model -o m.gguf --type F16 --split-max-size 5G    m-00001-of-00003.gguf and so on"""

_SIZE = re.compile(r"(\d+)([KMG]?)")
_UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def size(text: str) -> int:
    """An argument type: bytes, as 500M or 2G."""
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M or 2G")
    return int(match[1]) * _UNITS[match[2]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `convert`."""
    parser.add_argument("folder", metavar="DIR", help="folder of a checkpoint, or hf:owner/repo")
    parser.add_argument(
        "-o", "--output", "--outfile", type=Path, metavar="OUT",
        help="the .gguf file to write; {ftype} in it becomes the type (default: in DIR, by its name and TYPE)",
    )  # fmt: skip
    parser.add_argument("--type", "--outtype", dest="type", default="auto", metavar="TYPE", help="default: auto")
    add_threads_argument(parser)
    parser.add_argument("--imatrix", metavar="FILE", help="weigh columns by this importance matrix")
    parser.add_argument(
        "--tensor-type", type=tensor_type, action="append", default=[], metavar="REGEX=TYPE",
        help="type of the tensors in whose name REGEX is found; again for more",
    )  # fmt: skip
    parser.add_argument("--target-bpw", type=real, metavar="X", help="choose types by measured error, X bits a weight")
    parser.add_argument("--pure", action="store_true", help="one type for all matrices, no mix")
    parser.add_argument(
        "--lora", type=argument_type(ScaledPaths()), action="append", default=[], metavar="FOLDER[=SCALE]",
        help="add an adapter that PEFT saved to the weights, SCALE times; again for more",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="refuse quantised weights that no blocks are the same as")
    parser.add_argument("--vocab-only", action="store_true", help="write the vocabulary and metadata, no weights")
    parser.add_argument("--no-vocab", action="store_true", help="write weights alone: the file takes tokens, no text")
    parser.add_argument(
        "--sentence-transformers-dense-modules", dest="dense", action="store_true", default=True,
        help="with the dense layers behind the pooling (EmbeddingGemma's), which embeddings need: the default",
    )  # fmt: skip
    parser.add_argument(
        "--no-sentence-transformers-dense-modules", dest="dense", action="store_false",
        help="without them, as llama.cpp's converter leaves them out: embeddings are others then",
    )  # fmt: skip
    parser.add_argument("--model-name", metavar="NAME", help="what the file calls the model")
    parser.add_argument("--metadata", type=Path, metavar="FILE", help="a JSON object of keys that win over those found")
    parser.add_argument("--dry-run", action="store_true", help="show types and sizes, write nothing")
    parser.add_argument("--allow-pickle", action="store_true", help="read pytorch_model.bin (only tensors are taken)")
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="take infinite weights and NaN: as zero, where a type has none"
    )
    parser.add_argument("--bigendian", action="store_true", help="write numbers big-endian")
    group = parser.add_argument_group("several files")
    group.add_argument("--split-max-size", type=size, default=0, metavar="N[K|M|G]", help="bytes a file at most")
    group.add_argument("--split-max-tensors", type=whole(0), default=0, metavar="N", help="tensors a file at most")
    group.add_argument("--no-tensor-first-split", action="store_true", help="the first file has the metadata alone")


def run(args: argparse.Namespace) -> int:
    """Convert, and print the table or one object of JSON."""
    if args.pure and args.target_bpw is not None:
        raise UsageError("--pure is one type for all, --target-bpw chooses one for each: leave one of them out")
    if args.split_max_size and args.split_max_tensors:
        raise UsageError("files are cut by bytes or by tensors: leave out --split-max-size or --split-max-tensors")
    from ggufpy.convert import convert
    from ggufpy.hub import resolve_checkpoint
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        options = _options(args, progress)
        folder = resolve_checkpoint(args.folder, progress, args.allow_pickle)
        report = convert(folder, _target(args, folder), options)
    for note in report.notes:
        console.note(f"ggufpy convert: {note}")
    if args.json:
        print(json.dumps(report.as_json()))
        return 0
    if args.verbose:
        for tensor in report.tensors:
            print(f"{tensor.name:<40}{tensor.source:>8} -> {tensor.target:<8}{tensor.bytes:>15,}")
    for line in report.table() if report.tensors else ():
        print(line)
    print(f"{report.bits_per_weight:.3f} bits per weight, nothing written" if args.dry_run else _written(report.files))
    return 0


def _written(files: object) -> str:
    assert isinstance(files, list | tuple)
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _target(args: argparse.Namespace, folder: Path) -> Path:
    """The file to write. `{ftype}` and the other forms that llama.cpp has become the type's name."""
    chosen = args.type.upper()
    if args.output is None:
        return folder / f"{folder.resolve().name}-{chosen}.gguf"
    name = args.output.name
    for form, text in (("ftype", chosen.lower()), ("outtype", chosen.lower()), ("FTYPE", chosen), ("OUTTYPE", chosen)):
        name = name.replace("{" + form + "}", text)
    target: Path = args.output.with_name(name)
    if target.is_dir():
        raise GGUFError(f"{target} is a folder: give the name of a .gguf file")
    return target


def _options(args: argparse.Namespace, progress: Progress) -> ConvertOptions:
    from ggufpy.convert import ConvertOptions
    from ggufpy.format.split import DEFAULT_TENSORS, Limits
    from ggufpy.quantizer import QuantizeOptions

    limits = None
    if args.split_max_size or args.split_max_tensors:
        limits = Limits(
            args.split_max_size or None, args.split_max_tensors or DEFAULT_TENSORS, not args.no_tensor_first_split
        )
    quantize = QuantizeOptions(
        imatrix=args.imatrix,
        tensor_types=tuple(args.tensor_type),
        pure=args.pure,
        dry_run=args.dry_run,
        target_bpw=args.target_bpw,
        threads=args.n_threads,
        allow_requantize=True,  # whether quantised weights may change is said by --keep
        allow_nonfinite=args.allow_nonfinite,
        limits=limits,
        byteorder="big" if args.bigendian else "little",
        progress=progress,
    )
    return ConvertOptions(
        outtype=args.type,
        quantize=quantize,
        keep=args.keep,
        vocab_only=args.vocab_only,
        no_vocab=args.no_vocab,
        allow_pickle=args.allow_pickle,
        name=args.model_name,
        metadata=args.metadata,
        lora=tuple(args.lora),
        dense=args.dense,
    )
