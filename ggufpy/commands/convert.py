"""`ggufpy convert`, also `convert-hf-to-gguf`: a Hugging Face checkpoint to GGUF in one step."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import argument_type, whole
from ggufpy.commands._quantizing import add_quantizing_arguments, check_quantizing, print_report, quantizing_options
from ggufpy.errors import GGUFError
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
        help="the .gguf file to write ({ftype} in it becomes the type), or its folder (default: DIR; for hf: here)",
    )  # fmt: skip
    parser.add_argument("--type", "--outtype", dest="type", default="auto", metavar="TYPE", help="default: auto")
    parser.add_argument("--keep", action="store_true", help="refuse quantised weights that no blocks are the same as")
    parser.add_argument(
        "--lora", type=argument_type(ScaledPaths()), action="append", default=[], metavar="FOLDER[=SCALE]",
        help="add an adapter that PEFT saved to the weights, SCALE times; again for more",
    )  # fmt: skip
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
    parser.add_argument("--allow-pickle", action="store_true", help="read pytorch_model.bin (only tensors are taken)")
    parser.add_argument("--bigendian", action="store_true", help="write numbers big-endian")
    parser.add_argument("--remote", action="store_true", help="DIR is owner/repo, as with hf: before it")
    parser.add_argument(
        "--use-temp-file", "--no-lazy", action="store_true",
        help="taken for llama.cpp's sake, and change nothing: memory stays small without them",
    )  # fmt: skip
    add_quantizing_arguments(parser)
    group = parser.add_argument_group("several files")
    group.add_argument("--split-max-size", type=size, default=0, metavar="N[K|M|G]", help="bytes a file at most")
    group.add_argument("--split-max-tensors", type=whole(0), default=0, metavar="N", help="tensors a file at most")
    group.add_argument("--no-tensor-first-split", action="store_true", help="the first file has the metadata alone")


def run(args: argparse.Namespace) -> int:
    """Convert, and print the table or one object of JSON."""
    check_quantizing(args)
    if args.split_max_size and args.split_max_tensors:
        raise UsageError("files are cut by bytes or by tensors: leave out --split-max-size or --split-max-tensors")
    if args.vocab_only and args.dry_run:
        raise UsageError("--vocab-only writes no weights, whose types and sizes --dry-run shows: leave out one of them")
    if args.remote:
        args.folder = f"hf:{args.folder.removeprefix('hf:')}"
    from ggufpy.convert import convert
    from ggufpy.convert.model import of_path
    from ggufpy.hub import resolve_checkpoint
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        options = _options(args, progress)
        folder = of_path(resolve_checkpoint(args.folder, not args.vocab_only, args.allow_pickle))
        if folder.suffix == ".gguf" and folder.is_file():
            raise GGUFError(f"{folder} is a GGUF file already: 'ggufpy quantize' writes it in another type")
        report = convert(folder, _target(args, folder), options)
    print_report(args, "convert", report)
    return 0


def _target(args: argparse.Namespace, folder: Path) -> Path:
    """The file to write. `{ftype}` and the other forms that llama.cpp has become the type's name.

    Where a folder is named, or nothing, it goes by the checkpoint's name: into that folder, into the checkpoint's, or
    into this one for what was fetched.
    """
    chosen, fetched = args.type.upper(), args.folder.startswith("hf:")
    place: Path = args.output or (Path() if fetched else folder)
    if place.is_dir():
        model = args.folder.rpartition("/")[2] if fetched else folder.resolve().name
        return place / f"{model}-{chosen}.gguf"
    name = place.name
    for form, text in (("ftype", chosen.lower()), ("outtype", chosen.lower()), ("FTYPE", chosen), ("OUTTYPE", chosen)):
        name = name.replace("{" + form + "}", text)
    return place.with_name(name)


def _options(args: argparse.Namespace, progress: Progress) -> ConvertOptions:
    from ggufpy.convert import ConvertOptions
    from ggufpy.format.split import DEFAULT_TENSORS, Limits

    limits = None
    if args.split_max_size or args.split_max_tensors:
        limits = Limits(
            args.split_max_size or None, args.split_max_tensors or DEFAULT_TENSORS, not args.no_tensor_first_split
        )
    quantize = quantizing_options(
        args,
        progress,
        allow_requantize=True,  # whether quantised weights may change is said by --keep
        limits=limits,
        byteorder="big" if args.bigendian else "little",
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
