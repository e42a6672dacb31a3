"""`ggufpy run`: answers a prompt, or continues a text, printing it as it comes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._grammar_options import add_grammar_arguments, grammar_of
from ggufpy.commands._options import (
    add_cache_arguments,
    add_default_model_argument,
    add_engine_arguments,
    add_escape_arguments,
    add_load_options,
    add_sampling_arguments,
    add_speculation_arguments,
    check_speculation,
    load_options,
    report_machine,
    sampling_options,
    unescaped,
    whole,
)
from ggufpy.errors import GGUFError
from ggufpy.support import console
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.generate.loop import Stream
    from ggufpy.llm import Llama

EXIT_INTERRUPTED = 130

HELP = "answer a prompt, or continue a text (--raw)"
DESCRIPTION = """Answer a prompt, printing the text as it comes.

The prompt goes through the model's chat template when it has one; --raw continues the text as it stands.
Without -p or -f the prompt is read from stdin. As in llama.cpp, \\n and other escapes in the prompt are replaced,
wherever it comes from: give --no-escape with files that hold backslashes.
Ctrl-C ends the answer with the text so far (exit status 0; 130 before there is any).
--json prints one object instead of the text: text, tokens, prompt_tokens, prompt_per_second, decode_per_second,
seconds, finish ("stop", "length" or "interrupt"), drafted, accepted (tokens that --lookup or -md guessed, and
those that came).

examples:
  ggufpy run -p "Why is the sky blue?"
  ggufpy run model.gguf -sys "Answer in French." -p "Name three rivers." --temp 0
  ggufpy run model.gguf --raw -p "Once upon a time" -n 100 -s 7
  git diff | ggufpy run hf:owner/model-GGUF:Q4_K_M -f - --no-escape -c 8192
  ggufpy run -p "Two rivers as JSON" -j '{"type": "array", "items": {"type": "string"}, "maxItems": 2}'
  ggufpy run model.gguf -f edit.txt --lookup 8      faster where the answer repeats the prompt
  ggufpy run model.gguf -p "Tell me a story." -c 2048 --context-shift --ignore-eos -n 10000"""


@dataclass(frozen=True)
class Result:
    """What `--json` prints. Rates are tokens a second, None if not timed; `seconds` includes loading."""

    text: str
    tokens: int
    prompt_tokens: int
    prompt_per_second: float | None
    decode_per_second: float | None
    seconds: float
    finish: str
    drafted: int = 0
    accepted: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    add_default_model_argument(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help="what to answer or continue")
    source.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file ('-': stdin)")
    add_escape_arguments(parser)
    parser.add_argument(
        "-sys", "--system-prompt", metavar="TEXT", help="instructions ahead of the prompt, taken as they are"
    )
    parser.add_argument("--raw", action="store_true", help="no chat template: continue the text as it stands")
    parser.add_argument(
        "-n",
        "--predict",
        type=whole(-1),
        default=-1,
        metavar="N",
        help="tokens to write at most (default: -1, until the text ends or the context is full)",
    )
    add_load_options(parser, "n_ctx")
    parser.add_argument(
        "--context-shift",
        action="store_true",
        help="when the context is full, forget half of it and go on (default: stop there)",
    )
    parser.add_argument(
        "--keep",
        type=whole(-1),
        metavar="N",
        help="tokens of the prompt that --context-shift keeps (default: 0; -1: all of them)",
    )
    parser.add_argument("--pre", metavar="NAME", help="read the vocabulary with another pre-tokeniser")
    add_engine_arguments(parser)
    add_cache_arguments(parser)
    add_speculation_arguments(parser)
    add_sampling_arguments(parser)
    add_grammar_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, generate, print; returns the exit status."""
    if args.raw and args.system_prompt is not None:
        raise UsageError("-sys needs the chat template: leave out --raw, or put the instructions into the prompt")
    if args.keep is not None and not args.context_shift:
        raise UsageError("--keep says what --context-shift keeps: add it, or leave out --keep")
    check_speculation(args)
    grammar = grammar_of(args)
    started = time.perf_counter()
    prompt = _prompt(args)
    with _load(args) as llm:
        tokens = _tokens(llm, args, prompt)
        stream = llm.generate(
            tokens,
            limit=args.predict if args.predict > 0 else None,
            ignore_eos=args.ignore_eos,
            context_shift=args.context_shift,
            keep=args.keep or 0,
            grammar=grammar,
            **sampling_options(args),
        )
        result = _generate(llm, stream, args, len(tokens))
        result = replace(result, seconds=time.perf_counter() - started)
    if args.json:
        print(json.dumps(asdict(result)))
    elif not result.text.endswith("\n"):
        print()
    if args.verbose or console.is_terminal("stderr"):
        _report(result)
    if args.verbose:
        report_machine()
    return EXIT_INTERRUPTED if result.finish == "interrupt" and not result.text else 0


def _prompt(args: argparse.Namespace) -> str:
    """The prompt from -p, a file or stdin; the newline that ends a file is no part of it. Escapes are replaced."""
    raw, where = _raw_prompt(args)
    if args.prompt is None:
        if not raw.strip():
            raise UsageError(f"no prompt: {where} is empty; give -p TEXT or -f FILE")
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return (unescaped(raw) if args.escape else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{where} is not UTF-8 text (byte {error.start}): convert it first") from error


def _raw_prompt(args: argparse.Namespace) -> tuple[bytes, str]:
    """The prompt's bytes, and what to call it."""
    if args.prompt is not None:
        return os.fsencode(args.prompt), "the prompt"
    if args.file is not None and args.file != "-":
        with open(args.file, "rb") as file:
            return file.read(), args.file
    if args.file is None and not console.has_input():
        raise UsageError("no prompt: give -p TEXT, -f FILE, or text on stdin")
    return console.read_input("give -p TEXT or -f FILE"), "the prompt on stdin"


def _load(args: argparse.Namespace) -> Llama:
    from ggufpy.llm import Llama
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        return Llama.from_options(args.model, load_options(args, progress=progress))


def _tokens(llm: Llama, args: argparse.Namespace, prompt: str) -> list[int]:
    """The prompt's tokens, through the chat template unless --raw or the model has none."""
    if args.raw or (llm.chat_template is None and args.system_prompt is None):
        return llm.tokenize(prompt.encode("utf-8"), special=True)
    messages = [{"role": "user", "content": prompt}]
    if args.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": args.system_prompt})
    return llm.chat_tokens(messages)


def _generate(llm: Llama, stream: Stream, args: argparse.Namespace, prompt_tokens: int) -> Result:
    """Take the tokens to their end or to Ctrl-C, printing as it goes unless --json."""
    from ggufpy.support.clean import clean

    on_terminal = console.is_terminal("stdout")  # which obeys control characters; a file has the text as it is
    decoder = llm.tokenizer.stream()
    parts: list[str] = []

    def show(text: str) -> None:
        parts.append(text)
        if text and not args.json:
            sys.stdout.write(clean(text) if on_terminal else text)
            sys.stdout.flush()

    count, finish = 0, "length"
    start = prompt_done = last = time.perf_counter()
    try:
        stream.prefill()
        prompt_done = last = time.perf_counter()
        for token in stream if args.predict else ():
            count += 1
            last = time.perf_counter()
            show(decoder.push(token))
        finish = stream.finish or "length"
    except KeyboardInterrupt:
        finish = "interrupt"
    show(decoder.flush())
    prompt_seconds = prompt_done - start
    return Result(
        text="".join(parts),
        tokens=count,
        prompt_tokens=prompt_tokens,
        prompt_per_second=prompt_tokens / prompt_seconds if prompt_seconds else None,
        # the first token comes with the prompt's evaluation: the others are what decoding took
        decode_per_second=(count - 1) / (last - prompt_done) if count > 1 else None,
        seconds=last - start,
        finish=finish,
        drafted=stream.drafted,
        accepted=stream.accepted,
    )


def _report(result: Result) -> None:
    """One line of timings on stderr, dim on a terminal."""

    def rate(value: float | None) -> str:
        return f" ({value:.1f} t/s)" if value else ""

    line = (
        f"prompt {result.prompt_tokens} tokens{rate(result.prompt_per_second)}, answer {result.tokens} tokens"
        f"{rate(result.decode_per_second)}, {result.seconds:.2f} s with loading"
    )
    if result.drafted:
        line += f", {result.accepted} of {result.drafted} guesses right"
    dim = console.is_terminal("stderr") and not os.environ.get("NO_COLOR")
    console.note(f"\x1b[2m{line}\x1b[0m" if dim else line)
