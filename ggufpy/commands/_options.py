"""Argument types and groups that commands share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.errors import GGUFError
from ggufpy.hub import DEFAULT_MODEL, resolve
from ggufpy.support import console
from ggufpy.support.options import Kind, Option, Real, Whole, declared

if TYPE_CHECKING:
    from ggufpy.generate.loading import LoadOptions

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


def argument_type(kind: Kind) -> Callable[[str], Any]:
    """An argument type: what `kind` reads."""

    def parse(text: str) -> Any:
        try:
            return kind.read(text)
        except GGUFError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def whole(least: int) -> Callable[[str], int]:
    """An argument type: a whole number, at least `least`."""
    return argument_type(Whole(least))


real = argument_type(Real())  # an argument type: a finite number


def add_option(parser: argparse._ActionsContainer, option: Option) -> None:
    """An option as it is declared. It is None where it is not given, and the declaration has its default."""
    parser.add_argument(
        *option.flags,
        dest=option.name,
        type=argument_type(option.kind),
        action="append" if option.repeated else "store",
        metavar=option.metavar,
        help=option.full_help,
    )


def add_load_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Fields of `LoadOptions`, for `load_options`."""
    from ggufpy.generate.loading import LoadOptions

    known = declared(LoadOptions)
    for name in names:
        add_option(parser, known[name])


def load_options(args: argparse.Namespace, **more: Any) -> LoadOptions:
    """How to load a model: those of `args` that are named as a field of `LoadOptions` and were given, and `more`."""
    from ggufpy.generate.loading import LoadOptions

    names = {field.name for field in fields(LoadOptions)}
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return LoadOptions(**{"note": console.note, **given, **more})


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """How many threads, for commands that run no model."""
    from ggufpy.backends.options import EngineOptions

    add_option(parser, declared(EngineOptions)["n_threads"])


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Threads, batch and GPU layers, as every command that runs a model takes them."""
    add_load_options(parser.add_argument_group("engine"), "n_threads", "n_batch", "lora")
    about = "needs an NVIDIA card and CuPy: pip install 'ggufpy[cuda12]' or 'ggufpy[cuda13]', as nvidia-smi says"
    cards = parser.add_argument_group("layers on a GPU", about)
    add_load_options(cards, "n_gpu_layers", "main_gpu", "tensor_split", "n_cpu_moe")
    cards.add_argument(
        "-cmoe", "--cpu-moe", action="store_true", default=None, help="keep the experts of all layers on the CPU"
    )


class _Checked:
    """What an option takes, checked as it is read: before a model is loaded."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.check = option.kind.check

    def read(self, text: str) -> Any:
        """See Kind; of a repeated option each is read, and what they are together is looked at later."""
        value = self._option.kind.read(text)
        return value if self._option.repeated else self._option.check(value)


def add_sampling_arguments(parser: argparse.ArgumentParser, ignore_eos: bool = True) -> None:
    """How the next token is chosen: what the steps of sampling declare, and whether a text's end counts."""
    from ggufpy.generate.sampling.steps import Letters, options

    about = (
        "how the next token is chosen: samplers run one after the other, in the order below unless --samplers says "
        "another, and one token is drawn of what they leave; --temp 0 takes the likeliest"
    )
    group = parser.add_argument_group("sampling", about)
    for option in options():
        add_option(group, option._replace(kind=_Checked(option)))
        if option.name == "samplers":
            group.add_argument(
                "--sampler-seq",
                "--sampling-seq",
                dest=option.name,
                type=argument_type(Letters()),
                metavar="LETTERS",
                help=f"the same by letters: {Letters().help}",
            )
    if ignore_eos:
        group.add_argument("--ignore-eos", action="store_true", help="go on past the end of the text")


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_sampling_arguments` by name, None for what was not given.

    As in llama.cpp, -e also replaces escapes in sequence breakers.
    """
    from ggufpy.generate.sampling.steps import options

    values = {option.name: vars(args)[option.name] for option in options()}
    breakers = values["dry_sequence_breakers"]
    if breakers and vars(args).get("escape", True):
        values["dry_sequence_breakers"] = [each and _unescaped_word(each) for each in breakers]
    return values


def _unescaped_word(word: str) -> str:
    """A word of the command line with its escapes replaced; bytes that are not UTF-8 stay lone surrogates."""
    return os.fsdecode(unescaped(os.fsencode(word)))


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """The types of the key-value cache, by llama.cpp's names."""
    group = parser.add_argument_group("key-value cache", "f16, bf16, q8_0 (half the memory) or q4_0 (a quarter)")
    add_load_options(group, "cache_type_k", "cache_type_v")


def add_speculation_arguments(parser: argparse.ArgumentParser) -> None:
    """What guesses tokens, so that one step checks several; `check_speculation` says what does not go together."""
    group = parser.add_argument_group("guessing", "faster where text can be guessed; the text stays the same")
    add_load_options(group, "lookup")
    group.add_argument(
        "-md",
        "--model-draft",
        dest="draft_model",
        metavar="MODEL",
        help=f"guess with a smaller model of the same vocabulary: {MODEL_HELP}",
    )
    add_load_options(group, "draft_max")


def check_speculation(args: argparse.Namespace) -> None:
    """Raise UsageError for arguments of `add_speculation_arguments` that contradict each other."""
    if args.lookup and args.draft_model is not None:
        raise UsageError("--lookup and -md both guess tokens: use one of them")
    if args.draft_max is not None and args.draft_model is None:
        raise UsageError("--draft-max is for -md (with --lookup N, N is the most)")
