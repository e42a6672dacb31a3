"""Argument types and groups that commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from ggufpy.commands import UsageError
from ggufpy.hub import DEFAULT_MODEL, resolve
from ggufpy.support import console

DRAFT_MAX = 16  # llama.cpp's
MODEL_HELP = "path of a .gguf file, a known name (smollm2, gemma3-270m), or hf:owner/repo[:file-or-quant]"
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([nrt'\"\\]))")
_CHARACTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def add_model_argument(parser: argparse.ArgumentParser, name: str = "model", metavar: str = "MODEL") -> None:
    """A model that the command cannot do without."""
    parser.add_argument(name, metavar=metavar, help=MODEL_HELP)


def add_default_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL, or the default model."""
    text = f"{MODEL_HELP} (default: {DEFAULT_MODEL})"
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help=text)


def find_model(model: str) -> Path:
    """The file of what a user gave as MODEL, fetched if need be. Raises GGUFError where there is none."""
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        return resolve(model, progress)


def add_escape_arguments(parser: argparse.ArgumentParser) -> None:
    """-e and --no-escape, for commands with a prompt (`unescaped`)."""
    escape = parser.add_mutually_exclusive_group()
    escape.add_argument(
        "-e",
        "--escape",
        action="store_true",
        default=True,
        help=r"""replace \n \r \t \\ \' \" and \xHH (a byte) in the prompt, also of a file or stdin (default)""",
    )
    escape.add_argument("--no-escape", dest="escape", action="store_false", help="take the prompt as it is")


def unescaped(prompt: bytes) -> bytes:
    """A prompt with its escapes replaced, in one pass; others stay (llama.cpp: common.cpp, string_process_escapes)."""

    def one(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes([int(match[1], 16)])
        return _CHARACTERS.get(match[2], match[2])

    return _ESCAPE.sub(one, prompt)


def report_machine() -> None:
    """Says what the CPU has and cannot be used, for -v."""
    from ggufpy.jit import verdicts
    from ggufpy.simd import isa

    faults = [(level, verdicts.fault(level)) for level in isa.available()]
    left_out = [verdicts.reason_of(level, fault) for level, fault in faults if fault]
    for note in (*isa.notes(), *left_out):
        console.note(f"ggufpy: {note}")


def whole(least: int) -> Callable[[str], int]:
    """An argument type: a whole number, at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small, the least is {least}")
        return value

    return parse


def real(text: str) -> float:
    """An argument type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def token_bias(text: str) -> tuple[int, float]:
    """An argument type: `ID=BIAS`, or llama.cpp's `ID+BIAS` and `ID-BIAS`."""
    match = re.fullmatch(r"(\d+)(?:=([+-]?(?:inf|[\d.]+))|([+-](?:inf|[\d.]+)))", text)
    if match is None or (match[2] or match[3]).count(".") > 1 or (match[2] or match[3]).strip("+-") == ".":
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=BIAS, such as 42=-inf or 42=1.5")
    return int(match[1]), float(match[2] or match[3])


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Threads, batch and GPU layers, as every command that runs a model takes them."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "-t", "--threads", type=whole(1), metavar="T", help="CPU threads (default: one a core)"
    )
    group.add_argument(
        "-b",
        "--batch",
        type=whole(1),
        default=512,
        metavar="B",
        help="prompt tokens at a time (default: 512)",
    )
    group.add_argument(
        "-ngl",
        "--n-gpu-layers",
        type=whole(-1),
        default=0,
        metavar="N",
        help="layers on a GPU (0 only, for now)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How the next token is chosen; names and defaults are llama.cpp's."""
    group = parser.add_argument_group(
        "sampling", "how the next token is chosen; --temp 0 takes the likeliest"
    )
    group.add_argument(
        "-s",
        "--seed",
        type=int,
        default=-1,
        help="repeat a sampled answer (default: -1, a new one every time)",
    )
    for flag, kind, value, text in (
        ("--temp", real, 0.8, "randomness; 0: none"),
        ("--top-k", whole(0), 40, "keep the K likeliest; 0: all"),
        ("--top-p", real, 0.95, "keep the likeliest that make up this share; 1: all"),
        ("--min-p", real, 0.05, "drop tokens below this share of the likeliest; 0: none"),
        ("--typical", real, 1.0, "locally typical share; 1: off"),
        ("--repeat-penalty", real, 1.0, "divide the logits of recent tokens; 1: off"),
        ("--repeat-last-n", whole(-1), 64, "how many tokens are recent; -1: the whole context"),
        ("--presence-penalty", real, 0.0, "subtract from tokens that occurred"),
        ("--frequency-penalty", real, 0.0, "subtract for every time they did"),
    ):
        group.add_argument(flag, type=kind, default=value, metavar="X", help=f"{text} (default: {value})")
    group.add_argument(
        "--logit-bias",
        type=token_bias,
        action="append",
        default=[],
        metavar="ID=BIAS",
        help="add to a token's logit, again for more; -inf never takes it",
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on past the end of the text")


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """The types of the key-value cache, by llama.cpp's names."""
    group = parser.add_argument_group("key-value cache", "f16, bf16, q8_0 (half the memory) or q4_0 (a quarter)")
    for flag, which in (("-ctk", "k"), ("-ctv", "v")):
        group.add_argument(
            flag,
            f"--cache-type-{which}",
            default="f16",
            metavar="TYPE",
            help=f"type of the {which.upper()} cache (default: f16)",
        )


def add_speculation_arguments(parser: argparse.ArgumentParser) -> None:
    """What guesses tokens, so that one step checks several; `check_speculation` says what does not go together."""
    group = parser.add_argument_group("guessing", "faster where text can be guessed; the text stays the same")
    group.add_argument(
        "--lookup",
        type=whole(0),
        default=0,
        metavar="N",
        help="guess up to N tokens from what the text had before (8 is a good start; default: 0, off)",
    )
    group.add_argument(
        "-md",
        "--model-draft",
        metavar="MODEL",
        help=f"guess with a smaller model of the same vocabulary: {MODEL_HELP}",
    )
    group.add_argument(
        "--draft-max",
        type=whole(1),
        metavar="N",
        help=f"tokens that the smaller model guesses at most (default: {DRAFT_MAX})",
    )


def check_speculation(args: argparse.Namespace) -> None:
    """Raise UsageError for arguments of `add_speculation_arguments` that contradict each other."""
    if args.lookup and args.model_draft is not None:
        raise UsageError("--lookup and -md both guess tokens: use one of them")
    if args.draft_max is not None and args.model_draft is None:
        raise UsageError("--draft-max is for -md (with --lookup N, N is the most)")
