"""The command line: commands found by name, errors of one line, `run` around a fake engine (bench: test_bench.py)."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llm_fakes import EOS, parts

import ggufpy
from ggufpy import cli
from ggufpy.commands import _options
from ggufpy.generate import loading
from ggufpy.generate.loading import LoadOptions, Parts
from ggufpy.generate.sampling import Sampling
from ggufpy.generate.sampling.steps import options
from ggufpy.generate.sampling.steps.logit_bias import Biases
from ggufpy.llm import Llama
from ggufpy.support.options import declared
from ggufpy.support.progress import Progress, human_bytes


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Every model is the fake one: `.options` is what it was loaded with, `.parts` what it is made of."""
    seen = SimpleNamespace(parts=parts(), options=None, model=None)

    def load(model: str, options: LoadOptions) -> Parts:
        options.check()
        seen.model, seen.options = model, options
        return seen.parts

    monkeypatch.setattr(loading, "load_parts", load)
    return seen


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of the program."""
    status = cli.main(words)
    out, err = capsys.readouterr()
    return status, out, err


# -- the frame --


def test_every_command_says_what_it_is() -> None:
    names = cli.command_names()
    assert {"run", "bench", "pull"} <= set(names)
    for name in names:
        command = cli.load_command(name)
        assert command.HELP
        assert "\n" not in command.HELP
        text = cli.command_parser(name, command).format_help()
        assert "--json" in text
        assert "-v" in text


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for name in cli.command_names():
        assert f"\n  {name} " in out
    assert run(capsys, "--version")[1] == f"ggufpy {ggufpy.__version__}\n"
    assert run(capsys, "run", "--help")[0] == 0


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["rnu"], "did you mean run?"),
        (["m.gguf"], "ggufpy run m.gguf"),
        (["--foo"], "--foo"),
        (["run", "--foo"], "--foo"),
        (["run", "--tmep", "1"], "did you mean --temp?"),
        (["run", "-n", "-5"], "-5 is too small, the least is -1"),
        (["run", "-n", "x"], "'x' is not a whole number"),
        (["run", "-p"], "expected one argument"),
        (["run", "-p", "a", "-f", "b"], "not allowed with"),
        (["run", "-p", "a", "--raw", "-sys", "b"], "-sys needs the chat template"),
        (["run", "-p", "a", "--temp", "nan"], "'nan' is not a finite number"),
        (["run", "-p", "a", "--logit-bias", "x=1"], "ID=BIAS"),
        (["run", "-t", "0", "-p", "a"], "0 is too small"),
        (["run", "-p", "a", "--lookup", "-1"], "-1 is too small"),
        (["run", "-p", "a", "--lookup", "4", "-md", "b"], "--lookup and -md both guess tokens"),
        (["run", "-p", "a", "--draft-max", "4"], "--draft-max is for -md"),
        (["run", "-p", "a", "--keep", "4"], "--keep says what --context-shift keeps"),
        (["bench", "-p", "0", "-n", "0"], "nothing to measure"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], words: list[str], match: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert "--help" in err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    assert "commands:" in err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ggufpy.GGUFError("bad\nthing"), 1, "ggufpy pull: bad thing\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            1,
            "ggufpy pull: x: No such file or directory\n",
        ),
        (MemoryError(), 1, "ggufpy pull: not enough memory: try a smaller -c, or a smaller model\n"),
        (KeyboardInterrupt(), 130, "ggufpy pull: interrupted\n"),
        (ZeroDivisionError("x"), 1, "ggufpy pull: a fault in ggufpy: ZeroDivisionError: x; -v shows where\n"),
    ],
)
def test_whatever_goes_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    line: str,
) -> None:
    from ggufpy.commands import pull

    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(pull, "run", fail)
    assert run(capsys, "pull") == (status, "", line)
    if isinstance(error, Exception):
        assert "Traceback" in run(capsys, "pull", "-v")[2]


def test_public_names_are_lazy_and_all_there() -> None:
    heavy = "{'numpy', 'argparse', 'rich', 'jinja2', 'numba'}"
    code = f"import sys, ggufpy; print(sorted(set(sys.modules) & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    for name in ggufpy.__all__:
        assert getattr(ggufpy, name) is getattr(ggufpy, name)
        assert name in dir(ggufpy)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ggufpy.nothing  # noqa: B018


def test_help_imports_nothing_heavy() -> None:
    out = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ggufpy", "--help"], capture_output=True, text=True
    ).stderr
    assert not {"numpy", "rich", "jinja2", "numba", "tokenizers"} & {
        line.split("|")[-1].strip() for line in out.splitlines()
    }


# -- run --


def test_run_streams_the_chat_answer(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "run", "-p", "hi", "-n", "3", "--temp", "0", "-sys", "be")
    assert (status, out, err) == (0, "bcd\n", "")
    held = fake.parts.tokenizer.get().decode(fake.parts.engine.held)
    assert held.startswith("system:be;user:hi;a")
    assert fake.model == "smollm2"
    assert fake.parts.engine.closed


def test_run_raw_continues_the_text(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "run", "m.gguf", "--raw", "--prompt", "w", "--temp", "0", "-v")
    assert (status, out) == (0, "xyz\n")
    assert err.startswith("prompt 2 tokens (")
    assert "answer 3 tokens (" in err
    assert fake.model == "m.gguf"


def test_run_json(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "run", "--raw", "-p", "w", "--temp", "0", "--json")
    assert (status, out.count("\n")) == (0, 1)
    got = json.loads(out)
    assert (got["text"], got["tokens"], got["prompt_tokens"], got["finish"]) == ("xyz", 3, 2, "stop")
    assert got["seconds"] > 0
    assert got["prompt_per_second"] > 0
    assert got["decode_per_second"] > 0
    got = json.loads(run(capsys, "run", "--raw", "-p", "w", "-n", "0", "--json")[1])
    assert (got["text"], got["tokens"], got["decode_per_second"], got["finish"]) == ("", 0, None, "length")


def test_run_passes_its_options_on(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--raw -p a -c 32 -t 2 -b 8 -ngl 0 -ctk q8_0 -ctv bf16 --pre gpt-2 -s 3 --temp 0 -n 1 --ignore-eos"
    status, out, err = run(capsys, "run", *words.split(), "--logit-bias", "98=-inf")
    assert (status, err) == (0, "")
    assert out != "b\n"
    options = fake.options
    assert (options.n_ctx, options.n_threads, options.n_batch, options.pre) == (32, 2, 8, "gpt-2")
    assert (options.cache_type_k, options.cache_type_v) == ("q8_0", "bf16")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--cpu-moe"], "--cpu-moe says which experts stay on the CPU: say what goes to a card (-ngl, n_gpu_layers)"),
        (["-ctk", "q5_1"], "the key/value cache cannot be kept in 'q5_1': it can in f16, bf16, q8_0, q4_0"),
        (["--logit-bias", "9999=1"], "9999"),
        (["-f", "nowhere.txt"], "nowhere.txt: No such file"),
        (["-p", "x" * 100], "the prompt is 108 tokens and the context holds 64"),
    ],
)
def test_run_errors_are_one_line_and_status_1(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], words: list[str], match: str
) -> None:
    prompt = [] if {"-f", "-p"} & set(words) else ["-p", "a"]
    status, out, err = run(capsys, "run", *prompt, *words)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert match in err


def test_run_needs_a_template_for_sys(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    fake.parts = parts(template=False)
    assert run(capsys, "run", "-p", "w", "--temp", "0")[1] == "xyz\n"  # without a template: as it stands
    status, _, err = run(capsys, "run", "-p", "w", "-sys", "be")
    assert status == 1
    assert "no chat template" in err


def test_prompts_from_files_and_stdin(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"w\n")
    assert run(capsys, "run", "--raw", "-f", str(file), "--temp", "0")[1] == "xyz\n"
    for words in (["-f", "-"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"w\r\n")))
        assert run(capsys, "run", "--raw", "--temp", "0", *words)[1] == "xyz\n"
    file.write_bytes(b"ab\xff")
    status, _, err = run(capsys, "run", "-f", str(file))
    assert status == 1
    assert "is not UTF-8 text (byte 2)" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert run(capsys, "run")[0] == 2
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    status, _, err = run(capsys, "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "no prompt: give -p TEXT" in err


@pytest.mark.parametrize("command", ["run", "embed", "tokenize"])
def test_nobody_is_waited_for(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    status, out, err = run(capsys, command, "nowhere.gguf")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "give -p TEXT, -f FILE, or text on stdin" in err


def test_run_guesses_and_says_how_that_went(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    fake.parts = parts(succ=lambda token: ord("b") if token == ord("a") else ord("a"))
    words = ["run", "--raw", "-p", "ababab", "-n", "20", "--temp", "0"]
    plain = json.loads(run(capsys, *words, "--json")[1])
    assert (plain["drafted"], plain["accepted"]) == (0, 0)
    status, out, err = run(capsys, *words, "--lookup", "8", "-v")
    assert (status, out) == (0, "ab" * 10 + "\n")
    assert re.search(r", (\d+) of \d+ guesses right\n$", err)
    fake.parts = parts(succ=lambda token: ord("b") if token == ord("a") else ord("a"))
    got = json.loads(run(capsys, *words, "--lookup", "8", "--json")[1])
    assert got["text"] == plain["text"]
    assert 10 <= got["accepted"] <= got["drafted"] <= 30
    assert fake.options.lookup == 8


def test_run_drafts_with_a_smaller_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"big.gguf": parts(n_ctx=32), "small.gguf": parts(n_ctx=16)}
    seen = {}

    def load(model: str, options: LoadOptions) -> Parts:
        options.check()
        seen[model] = options
        return models[model]

    monkeypatch.setattr(loading, "load_parts", load)
    words = ["run", "big.gguf", "--raw", "-p", "p", "--temp", "0", "-t", "3", "--json"]
    got = json.loads(run(capsys, *words, "-md", "small.gguf", "--draft-max", "5")[1])
    assert (got["text"], got["finish"]) == ("qrstuvwxyz", "stop")
    assert got["accepted"] == got["drafted"] > 0
    small = seen["small.gguf"]
    assert (small.n_ctx, small.shorten, small.n_threads, small.draft_model) == (32, True, 3, None)
    assert seen["big.gguf"].draft_max == 5
    assert all(each.engine.closed for each in models.values())
    models = {"big.gguf": parts(), "small.gguf": parts(texts=["a"] * 258)}
    status, out, err = run(capsys, *words, "-md", "small.gguf")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "their vocabularies differ (token 0 is 'a' in one and '0' in the other)" in err
    assert all(each.engine.closed for each in models.values())


def test_run_shifts_the_context(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--raw", "-p", "a", "--temp", "0", "--ignore-eos", "-n", "30", "--json"]
    forever = {"n_ctx": 8, "succ": lambda token: 97 + (token - 96) % 26}
    fake.parts = parts(**forever)
    got = json.loads(run(capsys, *words)[1])
    assert (got["text"], got["finish"]) == ("bcdefgh", "length")
    for more, kept in (([], 1), (["--keep", "1"], 2), (["--keep", "-1"], 2)):  # the beginning token is always kept
        fake.parts = parts(**forever)
        got = json.loads(run(capsys, *words, "--context-shift", *more)[1])
        assert (got["text"], got["tokens"]) == ("bcdefghijklmnopqrstuvwxyzabcde", 30)
        assert fake.parts.engine.shifts[0] == (kept, (8 - kept + 1) // 2)
    status, _, err = run(capsys, *words, "--context-shift", "-p", "x" * 20)
    assert status == 1
    assert "the prompt is 21 tokens and the context holds 8" in err


@pytest.mark.parametrize(("after", "text", "status"), [(4, "bc", 0), (1, "", 130)])
def test_ctrl_c_keeps_the_text_so_far(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], after: int, text: str, status: int
) -> None:
    fake.parts.engine.fail_after = after - 1
    words = ["run", "--raw", "-p", "a", "--temp", "0"]
    assert run(capsys, *words) == (status, f"{text}\n", "")
    fake.parts.engine.held.clear()
    fake.parts.engine.fail_after = after - 1
    got = json.loads(run(capsys, *words, "--json")[1])
    assert (got["text"], got["finish"]) == (text, "interrupt")


def test_a_half_character_at_the_end_is_shown_as_such(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.parts = parts(succ=lambda token: 0xC3 if token == ord("a") else EOS)
    assert run(capsys, "run", "--raw", "-p", "a", "--temp", "0")[1] == "\ufffd\n"


SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
sys.path.insert(0, {tests!r})
import llm_fakes
from ggufpy import cli
from ggufpy.generate import loading
loading.load_parts = lambda model, options: llm_fakes.parts(n_ctx=10**7, succ=lambda token: 98)
sys.exit(cli.main(["run", "--raw", "-p", "a", "--temp", "0"]))
"""


@pytest.fixture
def endless() -> subprocess.Popen[str]:
    """A process that writes "b" for ever."""
    env = {**os.environ, "PYTHONPATH": str(Path(ggufpy.__file__).parents[1])}
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_a_real_sigint_ends_cleanly(endless: subprocess.Popen[str]) -> None:
    assert endless.stdout is not None
    assert endless.stdout.read(1) == "b"
    endless.send_signal(signal.SIGINT)
    out = "b" + endless.stdout.read()
    assert out == "b" * (len(out) - 1) + "\n"
    assert endless.stderr is not None
    assert (endless.wait(timeout=300), endless.stderr.read()) == (0, "")
    endless.stdout.close()
    endless.stderr.close()


def test_a_reader_that_leaves_ends_it_quietly(endless: subprocess.Popen[str]) -> None:
    assert endless.stdout is not None
    assert endless.stderr is not None
    endless.stdout.read(1)
    endless.stdout.close()
    assert endless.wait(timeout=300) == 1
    assert endless.stderr.read() == ""
    endless.stderr.close()


# -- options that are declared once --


def test_options_are_declared_once() -> None:
    """What `Llama` takes has the defaults of `LoadOptions`, and the help says what is declared."""
    declared_ones = declared(LoadOptions)
    parameters = inspect.signature(Llama.__init__).parameters
    both = [name for name in declared_ones if name in parameters]
    assert {"n_ctx", "n_threads", "n_batch", "n_gpu_layers", "lookup", "n_parallel", "cache_type_k"} <= set(both)
    assert {name: parameters[name].default for name in both} == {name: declared_ones[name].default for name in both}
    helps = {each: cli.command_parser(each, cli.load_command(each)).format_help() for each in ("run", "serve")}
    of_several = {"n_parallel", "prompt_ms"}  # a run has one text
    for option in (*declared_ones.values(), *options()):
        text = " ".join(helps["serve" if option.name in of_several else "run"].split())
        assert option.check(option.default) == option.default
        if option.flags:
            assert option.help in text
            assert option.name in of_several or option.full_help in text
            assert all(f"{flag} {option.metavar}" in text for flag in option.flags)


def test_every_sampling_option_reaches_the_sampler(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sampling] = []
    make = Llama.sampling
    monkeypatch.setattr(Llama, "sampling", lambda self, **given: seen.append(make(self, **given)) or seen[0])
    given = {option.name: "1" for option in options()}
    given |= {"samplers": "top_k;adaptive_p", "logit_bias": "7=1", "adaptive_decay": "0.5"}
    words = [word for option in options() for word in (option.flags[-1], given[option.name])]
    assert run(capsys, "run", "--raw", "-p", "a", "-n", "1", *words)[0] == 0
    kept: dict[str, Any] = {option.name: 1 for option in options()}
    kept |= {"samplers": ("top_k", "adaptive_p"), "logit_bias": {7: 1.0}, "adaptive_decay": 0.5}
    assert seen == [Sampling(**{**kept, "dry_sequence_breakers": ["1"]})]


# -- argument types, progress --


def test_logit_bias_forms() -> None:
    cases = {"5=1.5": (5, 1.5), "5=-inf": (5, float("-inf")), "7+2": (7, 2.0), "7-.5": (7, -0.5)}
    parse = _options.argument_type(Biases())
    assert {text: parse(text) for text in cases} == cases
    for wrong in ("5", "=1", "a=1", "5=", "5=1.2.3", "-5=1", "5=nan", "5=."):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(wrong)


def test_progress_is_silent_for_quick_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ggufpy.support.progress.time", SimpleNamespace(perf_counter=lambda: clock.now))
    with Progress() as progress:
        for done in range(5):
            progress("load", done, 4)
            clock.now += 0.1
    assert capsys.readouterr().err == ""
    with Progress() as progress:
        for done in range(0, 5):
            progress("download x", done * 10**6, 4 * 10**6)
            clock.now += 1.0
    assert capsys.readouterr().err == "ggufpy: download x (4.0 MB) ...\nggufpy: download x: 5.0 s (800.0 kB/s)\n"


def test_progress_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("ggufpy.support.progress.PATIENCE", 0.0)
    monkeypatch.setattr("ggufpy.support.progress.NEARLY_DONE", 0.0)
    with Progress() as progress:
        progress("compile", 0, 10)
        progress("compile", 4, 10)
    assert "compiling kernels" in screen.getvalue()


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (5, 98_362_432, 2e12, 1e16)] == ["5 B", "98.4 MB", "2.0 TB", "10000.0 TB"]
