"""`ggufpy quantize`: writes a model in a smaller type."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_model_argument, find_model, real, whole
from ggufpy.commands._quantizing import add_quantizing_arguments, check_quantizing, print_report, quantizing_options

if TYPE_CHECKING:
    from ggufpy.quantizer import QuantizeOptions
    from ggufpy.support.progress import Progress

HELP = "write a model in a smaller type, such as Q4_K_M"
DESCRIPTION = """Write the model IN as file type TYPE to OUT, each tensor in the type that llama-quantize gives it.

IN is a model in F32, F16 or BF16; of a split set, any of its files. OUT gets its name when it is whole: whatever goes
wrong, a file that was there before stays as it was.

TYPE, the larger the better:
  Q8_0              8.5 bits a weight, hardly to be told from F16
  Q6_K              6.6
  Q5_K_M  Q5_K_S    5.7  5.5
  Q4_K_M  Q4_K_S    4.9  4.6    what most people run
  IQ4_XS  IQ4_NL    4.3  4.5
  Q3_K_L  Q3_K_M  Q3_K_S    4.3  3.9  3.5
  IQ3_M  IQ3_S  IQ3_XS  IQ3_XXS    3.7 to 3.1, with --imatrix
  Q2_K  Q2_K_S      3.0  2.8    Q2_K_S with --imatrix
  IQ2_M  IQ2_S  IQ2_XS  IQ2_XXS  IQ1_M  IQ1_S    2.7 to 1.6, with --imatrix
  Q4_0  Q4_1  Q5_0  Q5_1    simple blocks of 32
  MXFP4_MOE  NVFP4  TQ1_0  TQ2_0  Q1_0  Q2_0    for models trained for them
  F32  F16  BF16  COPY    no blocks; COPY changes no tensor
Rows that the blocks of a type do not divide get another: the table at the end shows what came of it. Its errors are
root mean squares over those of the weights, measured on a sample of each tensor.

An importance matrix ('ggufpy imatrix') says which columns matter; below 4 bits it makes much of the difference.
--gptq makes the matrices of the layers by GPTQ: the model reads a text (--calibration), and what rounding a column
does to a matrix's outputs is made up for by the columns behind it. Layers follow one another, each measured behind
those that are quantised. It takes minutes where --imatrix takes seconds, and the file is as large and as fast as ever;
its errors in the table are larger, those of what the model says smaller. Types: Q2_K to Q6_K, Q4_0 to Q8_0, IQ4_NL and
IQ4_XS. Other types, and matrices of experts, are weighed by the columns' squares instead, as with --imatrix; token_embd
and output are made as without it.
--target-bpw X measures each tensor in every type and chooses so that all weights take X bits at most at the least
error (TYPE is then only the name that the file goes by).
JSON: bytes_in, bytes_out, bits_per_weight, seconds, tensors [{name, shape, from, to, bytes, error}], files, notes;
gptq (true) in tensors that were made by GPTQ.

examples:
  ggufpy quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M
  ggufpy quantize model-f16.gguf model-IQ3_M.gguf IQ3_M --imatrix model.imatrix.gguf
  ggufpy quantize model-f16.gguf model-Q3_K_M.gguf Q3_K_M --gptq --calibration calibration.txt
  ggufpy quantize model-f16.gguf out.gguf Q4_K_M --dry-run             how large it would be
  ggufpy quantize model-f16.gguf out.gguf Q4_K_M --tensor-type 'attn_v=Q8_0' --tensor-type 'blk\\.0\\.=Q6_K'
  ggufpy quantize model-f16.gguf out.gguf Q4_K_M --target-bpw 4.25 --imatrix model.imatrix.gguf
  ggufpy quantize big-00001-of-00004.gguf small.gguf Q8_0 --keep-split   small-00001-of-00004.gguf and so on"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `quantize`."""
    add_model_argument(parser, "input", "IN")
    parser.add_argument("output", metavar="OUT", help="the .gguf file to write")
    parser.add_argument("type", metavar="TYPE", help="a file type of those above, in any case")
    parser.add_argument(
        "--allow-requantize",
        action="store_true",
        help="take a file that is in blocks already; worse than starting from floats",
    )
    parser.add_argument("--keep-split", action="store_true", help="write as many files as IN has")
    group = add_quantizing_arguments(parser)
    group.add_argument("--output-tensor-type", metavar="TYPE", help="type of output.weight")
    group.add_argument("--token-embedding-type", metavar="TYPE", help="type of the token embedding")
    group.add_argument("--leave-output-tensor", action="store_true", help="leave output.weight as it is")
    add_gptq_arguments(parser)


def add_gptq_arguments(parser: argparse.ArgumentParser) -> None:
    """--gptq, the text that it measures on, and its damping."""
    group = parser.add_argument_group("GPTQ: errors made up for by later columns")
    group.add_argument("--gptq", action="store_true", help="make the matrices of layers by GPTQ")
    group.add_argument("--calibration", metavar="FILE", help="the text that the model reads for --gptq, UTF-8")
    group.add_argument(
        "--calibration-chunks",
        type=whole(-1),
        metavar="N",
        help="chunks of 512 tokens of it (default: 128; -1: the whole text)",
    )
    group.add_argument(
        "--gptq-damping",
        type=real,
        metavar="X",
        help="how much of the mean of a Hessian's diagonal is added to it (default: 0.05)",
    )


def run(args: argparse.Namespace) -> int:
    """Quantise, and print the table or one object of JSON."""
    _check_gptq(args)
    check_quantizing(args)
    from ggufpy.quantizer import quantize_file
    from ggufpy.support.progress import Progress

    source = find_model(args.input)
    with Progress() as progress:
        report = quantize_file(source, args.output, args.type, _options(args, progress))
    print_report(args, "quantize", report)
    return 0


def _check_gptq(args: argparse.Namespace) -> None:
    """Raises UsageError for options of GPTQ that go without one another."""
    if args.gptq and args.calibration is None:
        raise UsageError("--gptq needs a text to measure on: give --calibration FILE")
    rest = ("calibration", "calibration_chunks", "gptq_damping")
    alone = [f"--{name.replace('_', '-')}" for name in rest if getattr(args, name) is not None]
    if alone and not args.gptq:
        raise UsageError(f"{alone[0]} is for --gptq: give that too, or leave it out")


def _options(args: argparse.Namespace, progress: Progress) -> QuantizeOptions:
    more: dict[str, Any] = {} if args.gptq_damping is None else {"gptq_damping": args.gptq_damping}
    if args.gptq:
        from ggufpy.measure.hessians import CHUNKS, TextHessians

        chunks = CHUNKS if args.calibration_chunks is None else args.calibration_chunks
        more["gptq"] = TextHessians(args.calibration, chunks, threads=args.n_threads)
    return quantizing_options(
        args,
        progress,
        output_tensor_type=args.output_tensor_type,
        token_embedding_type=args.token_embedding_type,
        leave_output_tensor=args.leave_output_tensor,
        keep_split=args.keep_split,
        allow_requantize=args.allow_requantize,
        **more,
    )
