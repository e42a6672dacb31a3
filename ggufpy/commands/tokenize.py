"""`ggufpy tokenize`: the tokens of a text, as llama-tokenize shows them. Loads a vocabulary, no weights."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_escape_arguments, add_model_argument, find_model, unescaped
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer

HELP = "show the tokens of a text"
DESCRIPTION = """Show the tokens of a text: a line `id -> 'piece'` each, or the ids alone.
The model's beginning and end tokens are added where it wants them, and texts of special tokens are found,
as in llama-tokenize; so are escapes in the text, such as \\n (--no-escape).

examples:
  ggufpy tokenize model.gguf -p "Hello world"
  ggufpy tokenize model.gguf -f book.txt --no-escape --ids --no-bos
  echo -n "<|im_start|>" | ggufpy tokenize smollm2 --no-parse-special"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser)
    text = parser.add_mutually_exclusive_group()
    text.add_argument("-p", "--prompt", metavar="TEXT", help="the text (default: read it from stdin)")
    text.add_argument("-f", "--file", metavar="FILE", help="a file with the text; - is stdin")
    add_escape_arguments(parser)
    parser.add_argument("--ids", action="store_true", help="print the ids as one list")
    parser.add_argument("--show-count", action="store_true", help="print how many tokens there are")
    parser.add_argument("--pre", metavar="NAME", help="the pre-tokenizer, in place of the one the file names")
    special = parser.add_mutually_exclusive_group()
    special.add_argument("--special", action="store_true", default=True, help="find texts of special tokens (default)")
    special.add_argument(
        "--no-parse-special",
        dest="special",
        action="store_false",
        help="texts of control tokens are plain text",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--bos", action="store_true", help="put the beginning token first in any case")
    begin.add_argument("--no-bos", action="store_true", help="add no beginning or end token")


def run(args: argparse.Namespace) -> int:
    """Print the tokens; 0. Raises GGUFError for a model without a usable vocabulary."""
    from ggufpy.tokenizers import load_tokenizer

    text = _text(args)
    tokenizer = load_tokenizer(find_model(args.model), pre=args.pre)
    ids = tokenizer.encode(text, add_special=not args.no_bos, parse_special=args.special)
    if args.bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    if args.json:
        print(json.dumps({"ids": ids, "pieces": [_piece(tokenizer, i) for i in ids], "count": len(ids)}))
    elif args.ids:
        print(ids)
    else:
        for token in ids:
            print(f"{token:6d} -> '{_piece(tokenizer, token)}'")
    if args.show_count and not args.json:
        print(f"Total number of tokens: {len(ids)}")
    return 0


def _text(args: argparse.Namespace) -> bytes:
    """The text of a prompt, a file, or stdin, byte by byte, its escapes replaced."""
    if args.prompt is not None:
        raw = os.fsencode(args.prompt)
    elif args.file is not None and args.file != "-":
        raw = Path(args.file).read_bytes()
    elif args.file is None and not console.has_input():
        raise UsageError("no text: give -p TEXT, -f FILE, or text on stdin")
    else:
        raw = console.read_input("give -p TEXT or -f FILE")
    return unescaped(raw) if args.escape else raw


def _piece(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
