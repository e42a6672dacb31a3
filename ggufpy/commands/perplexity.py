"""`ggufpy perplexity`: how well a model predicts a text, and how far its logits are from another model's."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._measuring import (
    N_CTX,
    Running,
    add_text_arguments,
    check_output,
    check_text_arguments,
    load_model,
    nats,
    text_windows,
)
from ggufpy.commands._options import add_default_model_argument, add_engine_arguments, report_machine
from ggufpy.errors import GGUFError
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.llm import Llama
    from ggufpy.measure.klbase import KlBase
    from ggufpy.measure.perplexity import Ints, Result

HELP = "measure how well a model predicts a text, and what quantising cost it"
DESCRIPTION = """Measure the perplexity of a model on a text, as llama-perplexity does.

The text is cut into chunks of -c tokens; each is read into an empty context and its second half is scored. The less,
the better; figures of models with other vocabularies cannot be compared.
--save-kl-base keeps what the model's logits were, in a small file; --kl-base measures another model of the same
vocabulary against it: the mean, median, 99th percentile and maximum of the KL divergence in nats, how often the
likeliest token is the same, and the ratio of perplexities. With --kl-base, -f can be left out: the file has the tokens.
JSON: ppl, ppl_error, tokens, chunks, n_ctx, seconds, tokens_per_second; kld_mean, kld_error, kld_median, kld_p99,
kld_max, same_top (a share), ppl_base, ppl_ratio, ppl_ratio_error (null without --kl-base).

examples:
  ggufpy perplexity model.gguf -f wiki.test.raw --chunks 40
  ggufpy perplexity model-f16.gguf -f wiki.test.raw --chunks 40 --save-kl-base model.klbase
  ggufpy perplexity model-q4.gguf --kl-base model.klbase"""

KL_FIELDS = (
    "kld_mean", "kld_error", "kld_median", "kld_p99", "kld_max", "same_top", "ppl_base", "ppl_ratio", "ppl_ratio_error",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `perplexity`."""
    add_default_model_argument(parser)
    add_text_arguments(parser, required=False, default=None)
    parser.add_argument("--kl-base", metavar="FILE", help="measure the KL divergence from what FILE was saved from")
    parser.add_argument("--save-kl-base", metavar="FILE", help="save what other models are to be measured against")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, measure, print; 0."""
    check_text_arguments(args)
    if args.file is None and args.kl_base is None:
        raise UsageError("no text: give -f TEXT (or --kl-base FILE, which has the tokens of one)")
    if args.save_kl_base is not None:
        check_output(args.save_kl_base, (args.model, args.file, args.kl_base))
    from ggufpy.measure.klbase import KlBase

    with ExitStack() as stack:
        base = stack.enter_context(KlBase(args.kl_base)) if args.kl_base is not None else None
        n_ctx = args.ctx_size or (base.header.n_ctx if base is not None else N_CTX)
        llm = stack.enter_context(load_model(args, args.model, n_ctx))
        result = _measure(args, llm, _windows(args, llm, base, n_ctx), base)
    if args.json:
        print(json.dumps(fields(result) | {"n_ctx": n_ctx}))
    else:
        print(text(result, n_ctx))
    if args.verbose or console.is_terminal("stderr"):
        console.note(f"{result.seconds:.1f} s, {result.tokens_per_second:.1f} tokens/s")
    if args.verbose:
        report_machine()
    return 0


def _windows(args: argparse.Namespace, llm: Llama, base: KlBase | None, n_ctx: int) -> Ints:
    """The chunks to score; those of the base are at most as many as it has."""
    if base is None:
        return text_windows(llm, args.file, n_ctx, args.chunks)
    most = base.header.chunks
    if args.chunks > most:
        raise GGUFError(f"{args.kl_base} has {most} chunks: use --chunks {most} or fewer")
    count = most if args.chunks < 0 else args.chunks
    windows = base.tokens()[:count] if args.file is None else text_windows(llm, args.file, n_ctx, count)
    base.check(windows, llm.n_vocab())
    return windows


def _measure(args: argparse.Namespace, llm: Llama, chunks: Ints, base: KlBase | None) -> Result:
    from ggufpy.measure.klbase import Header, KlBaseWriter
    from ggufpy.measure.perplexity import measure

    with ExitStack() as stack:
        save = None
        if args.save_kl_base is not None:
            check_output(args.save_kl_base, [llm.name])
            header = Header(Path(llm.name).name, llm.n_vocab(), chunks.shape[1], len(chunks))
            save = stack.enter_context(KlBaseWriter(args.save_kl_base, header))
        running = stack.enter_context(Running("perplexity"))
        return measure(llm.engine, chunks, base, save, running)


def fields(result: Result) -> dict[str, Any]:
    """The result as `--json` has it."""
    values = asdict(result)
    divergence = values.pop("divergence") or {}
    return {**values, **{name: divergence.get(name) for name in KL_FIELDS}}


def text(result: Result, n_ctx: int) -> str:
    """The result for reading."""
    lines = [
        f"perplexity         {result.ppl:.4f} ± {result.ppl_error:.4f}  "
        f"({result.tokens:,} tokens in {result.chunks} chunk{'s' * (result.chunks != 1)} of {n_ctx})"
    ]
    d = result.divergence
    if d is not None:
        lines += [
            f"perplexity ratio   {d.ppl_ratio:.5f} ± {d.ppl_ratio_error:.5f}  (base {d.ppl_base:.4f})",
            f"KL divergence      {nats(d.kld_mean, 6)} ± {nats(d.kld_error, 6)} nats  "
            f"(median {nats(d.kld_median, 6)}, 99 % {nats(d.kld_p99, 5)}, maximum {nats(d.kld_max, 5)})",
            f"same top token     {100 * d.same_top:.2f} %",
        ]
    return "\n".join(lines)
