"""`ggufpy imatrix`: how much each column of each weight matrix matters, measured on a text."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._measuring import (
    add_text_arguments,
    check_output,
    check_text_arguments,
    load_model,
    text_windows,
)
from ggufpy.commands._options import add_default_model_argument, add_engine_arguments, report_machine, whole
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.quantizer.importance import ImportanceMatrix

HELP = "measure which weights matter, for quantize --imatrix"
DESCRIPTION = """Measure how strongly each column of each weight matrix is used on a text, for quantize --imatrix.

The text is cut into chunks of -c tokens; each is read into an empty context, and the squares of what each matrix is
multiplied by are summed. OUT is in llama.cpp's GGUF layout: llama-quantize reads it too. --in-file takes files of
either program (.gguf or the older .dat) and adds their sums; without -f it only merges them.
The output matrix (token_embd where the model has no other) is left out unless --process-output.
JSON: entries, chunks, chunk_size, datasets, seconds, tokens_per_second.

examples:
  ggufpy imatrix model-f16.gguf -f calibration.txt -o model.imatrix.gguf
  ggufpy imatrix model-f16.gguf -f more.txt -o both.gguf --in-file model.imatrix.gguf
  ggufpy imatrix -o all.gguf --in-file one.gguf --in-file two.dat"""

OUTPUT_FREQUENCY = 10  # llama.cpp's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `imatrix`."""
    add_default_model_argument(parser)
    add_text_arguments(parser, required=False)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the file to write, such as imatrix.gguf")
    parser.add_argument(
        "--in-file", action="append", default=[], metavar="FILE", help="add the sums of this file; again for more"
    )
    parser.add_argument("--process-output", action="store_true", help="measure the output matrix too")
    parser.add_argument(
        "--output-frequency",
        type=whole(0),
        default=OUTPUT_FREQUENCY,
        metavar="N",
        help=f"write OUT after every N chunks (default: {OUTPUT_FREQUENCY}; 0: at the end)",
    )
    parser.add_argument(
        "--save-frequency",
        type=whole(0),
        default=0,
        metavar="N",
        help="keep a copy, OUT.at_CHUNKS, after every N chunks (default: 0, none)",
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Collect or merge, write, print; 0."""
    check_text_arguments(args)
    if args.file is None and not args.in_file:
        raise UsageError("nothing to measure: give -f TEXT, or --in-file FILE to merge files")
    if args.output.endswith(".dat"):
        raise UsageError("the older .dat format is only read: name the output .gguf (llama-quantize takes it)")
    check_output(args.output, (args.model, args.file) if args.file is not None else ())
    from ggufpy.quantizer.importance import ImportanceMatrix

    start = time.perf_counter()
    matrices = [ImportanceMatrix.read(path, args.ctx_size) for path in args.in_file]
    begun = matrices[0].merged(matrices[1:]) if matrices else None
    matrix, tokens = (begun, 0) if args.file is None else _collect(args, begun)
    assert matrix is not None
    matrix.write(args.output)
    seconds = time.perf_counter() - start
    rate = tokens / seconds if tokens else None
    if args.json:
        numbers = {"entries": len(matrix.names), "chunks": matrix.chunks, "chunk_size": matrix.chunk_size}
        print(json.dumps({**numbers, "datasets": matrix.datasets, "seconds": seconds, "tokens_per_second": rate}))
    else:
        print(f"{args.output}: {len(matrix.names)} matrices, {matrix.chunks} chunks of {matrix.chunk_size} tokens")
    if args.verbose or console.is_terminal("stderr"):
        console.note(f"{seconds:.1f} s with loading" + (f", {rate:.1f} tokens/s" if rate else ""))
    if args.verbose:
        report_machine()
    return 0


def _collect(args: argparse.Namespace, begun: ImportanceMatrix | None) -> tuple[ImportanceMatrix, int]:
    """The sums of the text, on top of `begun`, and how many tokens were read."""
    from ggufpy.measure.imatrix import CollectOptions, collect
    from ggufpy.support.progress import Progress

    def save(matrix: ImportanceMatrix, done: int) -> None:
        if args.output_frequency and done % args.output_frequency == 0:
            matrix.write(args.output)
        if args.save_frequency and done % args.save_frequency == 0:
            matrix.write(f"{args.output}.at_{done}")

    with load_model(args, args.model, args.ctx_size) as llm, Progress() as progress:
        check_output(args.output, [llm.name])
        chunks = text_windows(llm, args.file, args.ctx_size, args.chunks)
        options = CollectOptions(
            text=args.file,
            output=args.process_output,
            begun=begun,
            save=save,
            due=lambda done: any(n and done % n == 0 for n in (args.output_frequency, args.save_frequency)),
            report=lambda done, total: progress("reading chunks", done, total),
        )
        return collect(llm.engine, chunks, options), chunks.size
