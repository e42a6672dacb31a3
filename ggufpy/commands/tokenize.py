"""`ggufpy tokenize`: the tokens of a text, as llama-tokenize shows them. Loads a vocabulary, no weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands._options import MODEL_HELP

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer

HELP = "show the tokens of a text"
DESCRIPTION = """Show the tokens of a text: a line `id -> 'piece'` each, or the ids alone.
The model's beginning and end tokens are added where it wants them, and texts of special tokens are found,
as in llama-tokenize.

examples:
  ggufpy tokenize model.gguf -p "Hello world"
  ggufpy tokenize model.gguf -f book.txt --ids --no-bos
  echo -n "<|im_start|>" | ggufpy tokenize smollm2 --no-parse-special"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    text = parser.add_mutually_exclusive_group()
    text.add_argument("-p", "--prompt", metavar="TEXT", help="the text (default: read it from stdin)")
    text.add_argument("-f", "--file", metavar="FILE", help="a file with the text; - is stdin")
    parser.add_argument("--ids", action="store_true", help="print the ids as one list")
    parser.add_argument("--show-count", action="store_true", help="print how many tokens there are")
    parser.add_argument("--pre", metavar="NAME", help="the pre-tokenizer, in place of the one the file names")
    special = parser.add_mutually_exclusive_group()
    special.add_argument(
        "--special", action="store_true", default=True, help="find texts of special tokens (default)"
    )
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
    from ggufpy.hub import resolve
    from ggufpy.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(resolve(args.model), pre=args.pre)
    ids = tokenizer.encode(_text(args), add_special=not args.no_bos, parse_special=args.special)
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


def _text(args: argparse.Namespace) -> bytes | str:
    """The text as it is: of a prompt, a file, or stdin."""
    if args.prompt is not None:
        return str(args.prompt)
    if args.file is not None and args.file != "-":
        return Path(args.file).read_bytes()
    return sys.stdin.buffer.read()


def _piece(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
