"""Standard streams that are absent, closed, full or without a reader; prompts from stdin and their escapes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from byte_vocabulary import write_vocabulary
from llm_fakes import parts

import ggufpy
from ggufpy import cli
from ggufpy.commands import _options
from ggufpy.commands._measuring import Running
from ggufpy.generate import loading
from ggufpy.generate.loading import LoadOptions, Parts
from ggufpy.llm import Llama
from ggufpy.support import console
from ggufpy.support.progress import Progress

posix = pytest.mark.skipif(os.name == "nt", reason="a shell closes the descriptors")

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import llm_fakes
from ggufpy import cli
from ggufpy.generate import loading
loading.load_parts = lambda model, options: llm_fakes.parts()
sys.exit(cli.main(sys.argv[1:]))
"""


def shell(tmp_path: Path, redirect: str, *words: str, unbuffered: bool = False) -> tuple[int, str, str]:
    """Status, stdout and stderr of the program around the fake model, run by a shell with `redirect` behind it."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    env = {**os.environ, "PYTHONPATH": str(Path(ggufpy.__file__).parents[1]), "PYTHONUNBUFFERED": "1" * unbuffered}
    command = f'exec "$@" {redirect}'
    line = ["sh", "-c", command, "sh", sys.executable, str(script), *words]
    done = subprocess.run(line, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


RUN = ("run", "--raw", "-p", "w", "--temp", "0")


@posix
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    ("redirect", "words", "expected"),
    [
        ("2>&-", RUN, (0, "xyz\n", "")),
        ("2>&-", (*RUN, "-v"), (0, "xyz\n", "")),
        ("2>&-", ("nothing",), (2, "", "")),
        ("2>&-", ("run", "-p", "w", "-sys", "x", "--raw"), (2, "", "")),
        ("<&-", RUN, (0, "xyz\n", "")),
        ("<&- 2>&-", RUN, (0, "xyz\n", "")),
        (">&-", RUN, (1, "", "ggufpy run: cannot write to standard output: Bad file descriptor\n")),
        (">&-", (*RUN, "--json"), (1, "", "ggufpy run: cannot write to standard output: Bad file descriptor\n")),
        (">&-", ("run", "--help"), (1, "", "ggufpy run: cannot write to standard output: Bad file descriptor\n")),
        (">&-", ("--version",), (1, "", "ggufpy: cannot write to standard output: Bad file descriptor\n")),
        (">&- 2>&-", RUN, (1, "", "")),
    ],
)
def test_closed_descriptors(
    redirect: str, words: tuple[str, ...], expected: tuple[int, str, str], unbuffered: bool, tmp_path: Path
) -> None:
    assert shell(tmp_path, redirect, *words, unbuffered=unbuffered) == expected


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("unbuffered", [False, True])
def test_full_disks(unbuffered: bool, tmp_path: Path) -> None:
    full = "cannot write to standard output: No space left on device\n"
    assert shell(tmp_path, ">/dev/full", *RUN, unbuffered=unbuffered) == (1, "", f"ggufpy run: {full}")
    assert shell(tmp_path, ">/dev/full", "bench", "--help", unbuffered=unbuffered) == (1, "", f"ggufpy bench: {full}")
    assert shell(tmp_path, "2>/dev/full", *RUN, "-v", unbuffered=unbuffered) == (0, "xyz\n", "")


@posix
def test_nobody_reads_what_stderr_says(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    script = tmp_path / "program.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    env = {**os.environ, "PYTHONPATH": str(Path(ggufpy.__file__).parents[1])}
    line = [sys.executable, str(script), *RUN, "-v"]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=write, text=True, env=env)
    os.close(write)
    assert (done.returncode, done.stdout) == (0, "xyz\n")


@posix
def test_a_file_never_gets_the_number_of_a_stream(tmp_path: Path) -> None:
    """What a library writes to descriptor 2 must not land in a file that was opened since."""
    code = "import os; from ggufpy.support import console\n"
    code += "with console.streams(): print(os.open(os.devnull, os.O_RDONLY))"
    env = {**os.environ, "PYTHONPATH": str(Path(ggufpy.__file__).parents[1])}
    line = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    assert int(done.stdout) > 2


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Every model is the fake one; `.tokens` is what it evaluated."""
    seen = SimpleNamespace(parts=parts())

    def load(model: str, options: LoadOptions) -> Parts:
        options.check()
        if options.progress is not None:
            options.progress("load", 1, 2)
        return seen.parts

    monkeypatch.setattr(loading, "load_parts", load)
    return seen


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, closed])
def test_the_library_needs_no_streams(
    make: object, fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    monkeypatch.setattr("ggufpy.support.progress.PATIENCE", 0.0)
    monkeypatch.setattr("ggufpy.support.progress.NEARLY_DONE", 0.0)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, make())
    with Llama("fake", verbose=True) as llm:
        text = llm("w", temperature=0.0)["choices"][0]["text"]
    with Progress() as progress, Running("perplexity") as running:
        progress("load", 1, 10)
        running(1, 2, 3.0)
    terminals = [console.is_terminal(name) for name in ("stdin", "stdout", "stderr")]
    monkeypatch.undo()
    assert (text, terminals) == ("xyz", [False] * 3)
    assert capsys.readouterr() == ("", "")  # in particular nothing that was for stderr


def test_a_program_without_a_console(fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pythonw: all three are None, and there is nowhere to print to."""
    prompt = tmp_path / "p.txt"
    prompt.write_text("w")
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    status = [cli.main(words) for words in ([*RUN], [*RUN, "-v", "--json"], ["run", "-f", str(prompt)], ["run"])]
    left = (sys.stdin, sys.stdout, sys.stderr)
    monkeypatch.undo()
    assert status == [0, 0, 0, 2]
    assert left == (None, None, None)


@pytest.mark.parametrize("make", [lambda: None, closed])
def test_no_stdin(
    make: object, fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert callable(make)
    monkeypatch.setattr(sys, "stdin", make())
    said = []
    for words in (["run"], ["run", "-f", "-"], ["perplexity", "-f", "-"], ["edit", "x", "--chat-template", "-"]):
        monkeypatch.chdir(tmp_path)
        ggufpy.write("x", {"general.architecture": "llama"}, {})
        status = cli.main(words)
        said.append((status, capsys.readouterr().err))
    assert said == [
        (2, "ggufpy run: no prompt: give -p TEXT, -f FILE, or text on stdin; see 'ggufpy run --help'\n"),
        (1, "ggufpy run: standard input is closed: give -p TEXT or -f FILE\n"),
        (1, "ggufpy perplexity: standard input is closed: give -f FILE\n"),
        (1, "ggufpy edit: standard input is closed: give the name of a file\n"),
    ]


# -- escapes --


ESCAPES = {
    rb"a\nb": b"a\nb", rb"\r\t": b"\r\t", rb"\\n": rb"\n", rb"\'\"": b"'\"", rb"\x41\x62": b"Ab",
    rb"\x4": rb"\x4", rb"\xg1": rb"\xg1", rb"\x": rb"\x", rb"\q\a\0": rb"\q\a\0", b"end\\": b"end\\", rb"\x5cn": rb"\n",
    rb"\xc3\xa9": b"\xc3\xa9", rb"\\\n": b"\\\n", b"\\\n": b"\\\n", rb"\X41": rb"\X41", rb"\x414": b"A4", b"": b"",
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), ESCAPES.items())
def test_escapes_are_llama_cpps(given: bytes, expected: bytes) -> None:
    assert _options.unescaped(given) == expected


def evaluated(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The text that `ggufpy run` evaluates before its first token."""
    fake.parts = parts()
    assert cli.main(["run", "-n", "1", "--temp", "0", *words]) == 0
    capsys.readouterr()
    first: list[int] = fake.parts.engine.log[0]
    return bytes(token for token in first if token < 256).decode()


def test_run_replaces_escapes_in_the_prompt_wherever_it_comes_from(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"a\\nb\\n\n")
    assert evaluated(fake, capsys, "--raw", "-p", r"a\nb") == "a\nb"
    assert evaluated(fake, capsys, "--raw", "-e", "-p", r"a\nb\xc3\xa9") == "a\nb\u00e9"
    assert evaluated(fake, capsys, "--raw", "--escape", "-f", str(file)) == "a\nb\n"
    for words in ([], ["-f", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\\tb\n")))
        assert evaluated(fake, capsys, "--raw", *words) == "a\tb"
    assert evaluated(fake, capsys, "--raw", "--no-escape", "-p", r"a\nb") == r"a\nb"
    assert evaluated(fake, capsys, "--raw", "--no-escape", "-f", str(file)) == r"a\nb\n"
    assert evaluated(fake, capsys, "-sys", r"s\n", "-p", r"a\nb") == "system:s\\n;user:a\nb;a"  # -sys as it is


def test_an_escape_may_not_break_the_text(fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-p", r"ab\xff"]) == 1
    assert "the prompt is not UTF-8 text (byte 2)" in capsys.readouterr().err


def test_tokenize_replaces_escapes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = tmp_path / "v.gguf", tmp_path / "t.txt"
    write_vocabulary(model)
    file.write_bytes(b"a\\nb\n")

    def ids(*words: str) -> list[int]:
        assert cli.main(["tokenize", str(model), "--json", *words]) == 0
        found: list[int] = json.loads(capsys.readouterr().out)["ids"]
        return found

    assert ids("-p", r"a\nb") == ids("-p", r"a\nb", "-e") == [97, 10, 98]
    assert ids("-p", r"a\nb", "--no-escape") == [97, 92, 110, 98]
    assert ids("-p", r"\xc3\xa9") == [0xC3, 0xA9]
    assert ids("-f", str(file)) == [97, 10, 98, 10]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\\nb")))
    assert ids() == [97, 10, 98]
