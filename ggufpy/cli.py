"""The command line: finds the commands, runs one, and turns whatever goes wrong into one line and a status.

In: the arguments. Out: the exit status, 0 done, 1 failed, 2 used wrongly, 130 interrupted before there was
anything to show. Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import gc
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn, Protocol, cast

from ggufpy import __version__, commands
from ggufpy.commands import UsageError
from ggufpy.errors import GGUFError
from ggufpy.support import console

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

DESCRIPTION = """Run, read and write GGUF language models, fast on the CPU you have.

MODEL is the path of a .gguf file, a name that ggufpy knows (smollm2, gemma3-270m), or hf:owner/repo[:file-or-quant].
Results go to stdout, progress and timings to stderr."""

EXAMPLES = """examples:
  ggufpy run -p "Why is the sky blue?"       the default model, fetched on first use
  ggufpy run model.gguf --raw -p "Once"      continue a text with a model of yours
  ggufpy bench model.gguf                    how fast it runs here
  ggufpy quantize f16.gguf q4.gguf Q4_K_M    a smaller file of the same model
  ggufpy COMMAND --help                      everything about one command"""


class Command(Protocol):
    """What a module in `ggufpy.commands` offers."""

    HELP: str
    DESCRIPTION: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that says where the help is."""

    def error(self, message: str) -> NoReturn:
        """Print `message` on stderr and leave with status 2."""
        hint = self._suggestion(message)
        console.note(f"{self.prog}: {message}{hint}; see '{self.prog} --help'")
        raise SystemExit(EXIT_USAGE)

    def _suggestion(self, message: str) -> str:
        """The option that a mistyped one is closest to, as a clause, or nothing."""
        head, _, unknown = message.partition("unrecognized arguments: ")
        if head or not unknown.startswith("-"):
            return ""
        import difflib

        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown.split()[0].partition("=")[0], known, n=1)
        return f" (did you mean {near[0]}?)" if near else ""


def command_names() -> list[str]:
    """The verbs, from the file names in `ggufpy.commands`."""
    modules = pkgutil.iter_modules(commands.__path__)
    return sorted(m.name.replace("_", "-") for m in modules if not m.name.startswith("_"))


def load_command(name: str) -> Command:
    """Import the module of one verb."""
    return cast(Command, import_module(f"ggufpy.commands.{name.replace('-', '_')}"))


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command: what every command takes, then its own arguments (which win)."""
    description, _, epilog = command.DESCRIPTION.partition("\nexamples:")
    parser = Parser(
        prog=f"ggufpy {name}",
        description=description.rstrip(),
        epilog=f"examples:{epilog}" if epilog else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="timings, and a traceback with an error")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--isa", metavar="LEVEL", help="force a SIMD level, as GGUFPY_ISA does (ggufpy doctor: which)")
    command.add_arguments(parser)
    return parser


def top_parser() -> argparse.ArgumentParser:
    """The parser behind `ggufpy --help`, with one line for every command."""
    width = max(map(len, command_names()))
    lines = [f"  {name:<{width}} {load_command(name).HELP}" for name in command_names()]
    parser = Parser(
        prog="ggufpy",
        usage="ggufpy COMMAND [MODEL] [options]",
        description=DESCRIPTION + "\n\ncommands:\n" + "\n".join(lines),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ggufpy {__version__}")
    return parser


def program() -> NoReturn:
    """The process's entry: `main`, with a start and an end that cost a user no time.

    NumPy's BLAS multiplies nothing here, and its threads would spin on the cores that load the model; a collection of
    garbage finds none in what a start builds; and at the end the system takes everything back faster than Python does.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(100_000, 50, 50)
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # `main` has reported what could not be written
            if stream is not None:
                stream.flush()
    os._exit(status)


def convert_hf_to_gguf() -> NoReturn:
    """The entry of `convert-hf-to-gguf`, whose command line is that of llama.cpp's program."""
    sys.argv[1:] = ["convert", *sys.argv[1:]]
    program()


def convert_lora_to_gguf() -> NoReturn:
    """The entry of `convert-lora-to-gguf`."""
    sys.argv[1:] = ["convert-lora-to-gguf", *sys.argv[1:]]
    program()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (default: the process's own arguments) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in command_names() else ""
    with console.streams() as output:
        status = _status(name, words, output)
        if output.error is None:
            return status
        if not isinstance(output.error, BrokenPipeError):  # whoever read our output has had enough, as in `| head`
            prog = f"ggufpy {name}".strip()
            console.note(f"{prog}: cannot write to standard output: {output.error.strerror or output.error}")
        return EXIT_FAILED


def _status(name: str, words: list[str], output: console.Output) -> int:
    """Run what was asked for, and return its exit status; one for an error of `output` is not to be reported here."""
    try:
        status = _run_command(name, words[1:], output) if name else _no_command(words)
        output.flush()
        return status
    except SystemExit as stop:  # argparse leaves this way after --help (0) and usage errors (2)
        with suppress(OSError):  # `output` keeps it
            output.flush()
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except OSError:
        if output.error is None:
            raise
        return EXIT_FAILED


def _no_command(words: list[str]) -> int:
    parser = top_parser()
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    if words[0].startswith("-"):
        parser.parse_args(words)
        return 0
    import difflib

    near = difflib.get_close_matches(words[0], command_names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else f" (there are {', '.join(command_names())})"
    if words[0].endswith(".gguf"):
        hint = f" (to run a model: ggufpy run {words[0]})"
    return _usage(parser, f"no command {words[0]!r}{hint}")


def _usage(parser: argparse.ArgumentParser, message: str) -> int:
    """Print a usage error the way the parser does, and return its status."""
    parser.error(message)


def _run_command(name: str, words: list[str], output: console.Output) -> int:
    command = load_command(name)
    args = command_parser(name, command).parse_args(words)
    if args.isa is not None:
        os.environ["GGUFPY_ISA"] = args.isa
    try:
        return command.run(args)
    except KeyboardInterrupt:
        return _fail(name, "interrupted", args, EXIT_INTERRUPTED)
    except UsageError as error:
        return _fail(name, f"{error}; see 'ggufpy {name} --help'", args, EXIT_USAGE)
    except GGUFError as error:
        return _fail(name, str(error), args, EXIT_FAILED)
    except MemoryError as error:
        wants = f" ({error})" if str(error) else ""
        hint = "try a smaller -c, or a smaller model"
        return _fail(name, f"not enough memory{wants}: {hint}", args, EXIT_FAILED)
    except OSError as error:
        if output.error is not None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(name, f"{where}{error.strerror or error}", args, EXIT_FAILED)
    except Exception as error:
        hint = "" if args.verbose else "; -v shows where"
        return _fail(name, f"a fault in ggufpy: {type(error).__name__}: {error}{hint}", args, EXIT_FAILED)


def _fail(name: str, message: str, args: argparse.Namespace, status: int) -> int:
    """Print the one line of an error, under -v after its traceback."""
    if args.verbose and status != EXIT_INTERRUPTED:
        import traceback

        traceback.print_exc()
    from ggufpy.support.clean import one_line  # errors quote files, which may have written for a terminal

    console.note(one_line(f"ggufpy {name}: {message}"))
    return status
