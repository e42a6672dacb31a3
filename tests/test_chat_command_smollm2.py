"""`ggufpy chat` with a real model, SmolLM2-135M, where it has been fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pexpect", exc_type=ImportError)

from chat_fakes import Terminal

from ggufpy.hub import MODELS
from ggufpy.support.folders import cache_dir

ROOT = Path(__file__).resolve().parent.parent
MODEL = cache_dir() / "models" / "smollm2" / MODELS["smollm2"].file_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("deadline"),
    pytest.mark.skipif(not MODEL.is_file(), reason="smollm2 has not been fetched (ggufpy pull smollm2)"),
]


def test_two_turns_by_line() -> None:
    """The second turn evaluates what is new: the end of the answer, the message and what the template puts around."""
    words = [sys.executable, "-m", "ggufpy", "chat", "--json", "--temp", "0", "-n", "24", "-c", "1024"]
    asked = "The capital of France is which city?\nAnd that of Italy, please?\n"
    done = subprocess.run(words, input=asked, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "Paris" in found["messages"][1]["content"]
    first, second = found["turns"]
    assert first["cached"] == 0
    assert second["cached"] >= first["prompt"]
    assert second["prompt"] - second["cached"] < 24


def test_at_a_terminal(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nfrom ggufpy import cli\nsys.exit(cli.main(['chat', *sys.argv[1:]]))\n")
    words = ("--no-history", "--temp", "0", "-c", "1024", "-n", "24")
    with Terminal(*words, script=str(program), size=(70, 20), PYTHONPATH=str(ROOT)) as it:
        it.say("The capital of France is which city?")
        assert "Paris" in it.text
        assert "of them evaluated; answer" in it.text
        it.say("/params max_tokens=-1")
        it.keys("Write a long story about the sea.\r")
        it.wait(lambda: len(" ".join(it.text.split())) > 500)
        it.keys("\x03")
        it.wait("stopped; what came is kept")
        it.say("/undo")
        it.say("/tokens")
        assert "1 exchange" in it.text
        it.prompt()
        it.keys("\x04")
        assert it.end() == 0
