"""`ggufpy embed`: texts as vectors, as llama-embedding makes them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_engine_arguments, add_load_options, add_model_argument, load_options
from ggufpy.errors import GGUFError
from ggufpy.support import console

HELP = "turn texts into vectors (embeddings)"
DESCRIPTION = """Print the embedding of a text: its numbers on a line, of length 1.
Several texts (-p again, or --lines) are a line each. How a text's tokens become one vector the model says; --pooling
says it otherwise: the mean of all, the first (cls), the last, or none, which prints a line for each token. A model
that ranks texts prints scores.
JSON: what OpenAI's embeddings are: data (embedding, index), model, usage.

examples:
  ggufpy embed model.gguf -p "How to boil an egg"
  ggufpy embed model.gguf -f questions.txt --lines --json
  ggufpy embed smollm2 -p "any model will do" --pooling mean"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser)
    text = parser.add_mutually_exclusive_group()
    text.add_argument("-p", "--prompt", metavar="TEXT", action="append", help="a text (default: read it from stdin)")
    text.add_argument("-f", "--file", metavar="FILE", help="a file with the text, UTF-8; - is stdin")
    parser.add_argument("--lines", action="store_true", help="every line of FILE is a text of its own")
    kinds = ("none", "mean", "cls", "last", "rank")
    parser.add_argument("--pooling", choices=kinds, help="how tokens become one vector (default: the model's)")
    parser.add_argument(
        "--no-normalize", dest="normalize", action="store_false", help="leave vectors as long as they are"
    )
    add_load_options(parser, "n_ctx")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the vectors; 0. Raises GGUFError for texts that are empty or too long."""
    texts = _texts(args)
    if args.pooling == "none" and len(texts) > 1:
        raise UsageError("--pooling none prints a line for each token of one text: give one text at a time")
    from ggufpy.llm import Llama
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        llm = Llama.from_options(args.model, load_options(args, progress=progress))
    with llm:
        if args.json:
            print(json.dumps(llm.create_embedding(texts, normalize=args.normalize, pooling=args.pooling)))
        else:
            for row in llm.embed(texts, normalize=args.normalize, pooling=args.pooling):
                print(" ".join(f"{value:.7g}" for value in row))
    return 0


def _texts(args: argparse.Namespace) -> list[str]:
    """The texts. Raises GGUFError where there is none, or what there is is not UTF-8."""
    if args.prompt is not None:
        if args.lines:
            raise UsageError("--lines is for texts of a file (-f)")
        return list(args.prompt)
    if args.file is None and not console.has_input():
        raise UsageError("no text: give -p TEXT, -f FILE, or text on stdin")
    raw = console.read_input("give -p TEXT or -f FILE") if args.file in (None, "-") else Path(args.file).read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        name = os.fspath(args.file or "the text")
        raise GGUFError(f"{name} is not UTF-8 text (byte {error.start}): convert it first") from error
    texts = [line for line in text.splitlines() if line.strip()] if args.lines else [text]
    if not texts or not texts[0].strip():
        raise GGUFError("there is no text to embed: give -p TEXT or -f FILE")
    return texts
