"""`ggufpy batch`: many requests of a file, answered together, as OpenAI's batches are."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import (
    MODEL_HELP,
    add_cache_arguments,
    add_engine_arguments,
    add_option,
    add_speculation_arguments,
    check_speculation,
    load_options,
)
from ggufpy.hub import DEFAULT_MODEL
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.server.batch.run import Outcome

HELP = "answer a file of requests (OpenAI's batch format)"
PLACES, CONTEXT = 16, 8192
DESCRIPTION = f"""Answer the requests of a file, many at a time, into another file: OpenAI's batch format.

A line of IN is a request, a line of OUT an answer; OUT is in the order in which answers are ready:
  {{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {{"messages": [...]}}}}
  {{"id": "...", "custom_id": "1", "response": {{"status_code": 200, "body": {{...}}}}, "error": null}}
url is /v1/chat/completions, /v1/completions, /v1/responses or /v1/embeddings. All of IN is looked at before anything
is answered. A request that is refused has its error for an answer, and the others go on. One model answers all,
whichever a body names.

Whatever ends it, the same command goes on where it was: OUT keeps what is answered, and nothing is answered twice.
JSON: requests, failed, skipped, prompt_tokens, cached_tokens, tokens, seconds, tokens_per_second.

examples:
  ggufpy batch questions.jsonl answers.jsonl                      the default model, {PLACES} requests at a time
  ggufpy batch questions.jsonl answers.jsonl -m model.gguf -np 32 -c 4096"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `batch`."""
    from ggufpy.generate.loading import LoadOptions
    from ggufpy.support.options import declared

    parser.add_argument("requests", metavar="IN", help="file of requests, one object of JSON a line")
    parser.add_argument("answers", metavar="OUT", help="file of answers; one that is there is gone on with")
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help=f"{MODEL_HELP} (default: {DEFAULT_MODEL})")
    known = declared(LoadOptions)
    add_option(parser, known["n_parallel"]._replace(default_text=str(PLACES)))
    add_option(parser, known["n_ctx"]._replace(default_text=f"{CONTEXT}, or the model's own where that is less"))
    add_engine_arguments(parser)
    add_cache_arguments(parser)
    add_speculation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer what has no answer yet; 0, also where requests were refused. Raises GGUFError for files that cannot be."""
    from ggufpy.server.batch.answers import Answers
    from ggufpy.server.batch.lines import read, survey
    from ggufpy.server.batch.run import Outcome, alike, answer
    from ggufpy.support.progress import Progress

    check_speculation(args)
    given, out = Path(args.requests), Path(args.answers)
    if out.exists() and given.exists() and os.path.samefile(given, out):
        raise UsageError("OUT is IN: name another file for the answers")
    if given.exists() and not given.is_file():
        raise UsageError("IN is no file: it is read twice, first to look at every line")
    wanted = survey(given)
    with Answers(out, wanted) as answers:
        waiting = len(wanted.ids) - len(answers.done)
        if not waiting:
            _report(args, Outcome(skipped=len(answers.done)))
            return 0
        with Progress() as progress:
            from ggufpy.llm import Llama

            own = args.n_ctx is None  # a bound of ours is none for a model that holds less
            args.n_ctx, args.n_parallel = args.n_ctx or (CONTEXT if own else 0), args.n_parallel or PLACES
            llm = Llama.from_options(args.model, load_options(args, progress=progress, shorten=own))
            _note_models(wanted.models, args.model)
            outcome = answer(llm, args.model, alike(read(given)), answers, progress, waiting)
    _report(args, outcome)
    return 0


def _note_models(named: tuple[str, ...], model: str) -> None:
    if others := [name for name in named if name != model]:
        console.note(f"ggufpy: requests name {', '.join(others)}: all are answered by {model}")


def _report(args: argparse.Namespace, outcome: Outcome) -> None:
    """Says what was done, and where to look for what was refused."""
    answered = outcome.requests - outcome.failed
    lines = [f"{answered:,} {'request' if answered == 1 else 'requests'} answered"]
    if outcome.failed:
        lines.append(f"{outcome.failed:,} refused, with their errors in {args.answers}")
    if outcome.skipped:
        lines.append(f"{outcome.skipped:,} had been before")
    console.note(f"ggufpy: {'; '.join(lines)}")
    if outcome.requests:
        rate = f"{outcome.tokens_per_second:.1f} tokens a second"
        read = f"{outcome.prompt_tokens:,} tokens read ({outcome.cached_tokens:,} of them known)"
        console.note(f"ggufpy: {read}, {outcome.tokens:,} written in {outcome.seconds:.1f} s: {rate}")
    if args.json:
        print(json.dumps({**asdict(outcome), "tokens_per_second": outcome.tokens_per_second}))
