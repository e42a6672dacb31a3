"""`ggufpy chat` at a terminal: keys go into a pseudo terminal, the screen is read from an emulator."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

pytest.importorskip("pexpect", exc_type=ImportError)

from chat_fakes import HOSTILE, Terminal

pytestmark = pytest.mark.usefixtures("cache", "deadline")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a working folder."""
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_message_and_its_answer(cache: Path) -> None:
    with Terminal() as it:
        it.wait("/help lists commands")
        it.say("hello there")
        assert "> hello there" in it.lines
        assert "heard 'hello there' in 1 messages" in it.text
        assert re.search(r"prompt 4 tokens, 4 of them evaluated; answer \d+ tokens", it.text)
        it.wait(lambda: it.shown[-1].startswith("tiny␛[2J-model  context"))
        it.say("again")
        assert "in 3 messages" in it.text
        it.keys("\x04")
        assert it.end() == 0
    kept = cache / "chat_history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with Terminal() as it:
        it.prompt()
        it.keys("\x1b[A\x1b[A")
        it.wait("> hello there")
        it.keys("\x03/exit\r")
        assert it.end() == 0


def test_lines_of_one_message() -> None:
    with Terminal("--no-history") as it:
        it.prompt()
        it.keys("one\x0atwo\x1b\rthree\\\rfour")
        it.wait(". four")
        assert [line for line in it.shown if line][-5:-1] == ["> one", ". two", ". three", ". four"]
        it.keys("\r")
        it.wait("heard 'one\\ntwo\\nthree\\nfour'")
        it.prompt()
        it.keys("\x1b[200~pasted\rin two\x1b[201~")
        it.wait(". in two")
        it.keys("\r")
        it.wait("heard 'pasted\\nin two' in 3 messages")
        it.prompt()
        it.keys("\r\r")  # an empty message is none
        it.say("//etc")
        assert "heard '/etc'" in it.text
        it.keys("\x04")
        assert it.end() == 0


def test_ctrl_c_stops_an_answer_and_keeps_what_came(tmp_path: Path) -> None:
    with Terminal("-c", "2000") as it:
        it.prompt()
        it.keys("slow\r")
        it.wait("word5 ")
        it.keys("typed ahead")
        it.wait("word20 ")
        assert "typed" not in it.text  # it would be in the midst of what is drawn
        it.keys("\x03")
        it.wait("stopped; what came is kept")
        it.prompt()
        assert "^C" not in it.text
        assert "typed" not in it.text
        it.say("/save cut.json")
        said = json.loads(Path("cut.json").read_text())["messages"]
        assert said[0] == {"role": "user", "content": "slow"}
        assert re.fullmatch(r"(word\d+ )+", said[1]["content"])
        assert 5 < len(said[1]["content"].split()) < 400
        shown = " ".join(it.text.split())
        assert said[1]["content"].strip() in shown
        it.keys("stuck\r")
        it.wait("...")
        it.keys("\x03")
        it.wait("> stuck")  # nothing came: the message is there to be sent again
        it.wait(lambda: it.shown[it.emulated.cursor.y] == "> stuck")
        it.keys("\x03")
        it.wait("Ctrl-C again leaves")
        it.keys("\x03")
        assert it.end() == 0


def test_ctrl_c_clears_what_is_written() -> None:
    with Terminal() as it:
        it.prompt()
        it.keys("some words\x03")
        it.prompt()
        it.keys("x")
        it.wait(lambda: it.shown[it.emulated.cursor.y] == "> x")
        assert "again leaves" not in it.text
        it.keys("\x03")
        it.wait("again leaves")
        it.keys("\x03")
        assert it.end() == 0


def test_commands(tmp_path: Path) -> None:
    with Terminal("-sys", "Be brief.", "-s", "7", size=(100, 40)) as it:
        it.say("/help")
        assert "/save FILE" in it.text
        assert "Alt-Enter" in it.text
        it.say("/system")
        assert "Be brief." in it.lines
        it.say("first")
        assert "in 2 messages [('seed', 7)]" in it.text
        it.say("/regen")
        assert "in 2 messages [('seed', 8)]" in it.text
        it.say("second")
        assert "heard 'second' in 4 messages" in it.text
        it.say("/undo")
        assert "taken back: second" in it.text
        it.say("/params temp=0.25 top-p=0.5 thoughts=fold")
        it.say("/params")
        assert re.search(r"^temp +0\.25 \*", it.text, re.MULTILINE)
        it.say("/save 'a chat.json'")
        assert "1 exchange and 4 settings saved to a chat.json" in it.text
        it.say("/reset")
        assert "1 exchange forgotten; the system prompt stays" in it.text
        it.say("/params temp=default")
        it.say("/load a chat.json")
        assert re.search(r"1 exchange \(\d+ of 200 tokens\) loaded from a chat.json", it.text)
        it.say("/tokens")
        assert "a system prompt and 1 exchange" in it.text
        it.say("/drop")
        assert "1 exchange dropped, 0 left" in it.text
        it.say("/rset")
        assert "no command /rset (did you mean /reset?)" in it.text
        it.say("/params tmep=1")
        assert "no parameter 'tmep' (did you mean temp?)" in it.text
        it.say("/undo")
        assert "there is nothing to take back" in it.text
        it.keys("/quit\r")
        assert it.end() == 0
    settings = json.loads(Path("a chat.json").read_text())["settings"]
    assert settings == {"temp": 0.25, "top_p": 0.5, "seed": 7, "thoughts": "fold"}


def test_a_message_that_does_not_fit() -> None:
    with Terminal("-c", "60", size=(100, 30)) as it:
        for word in ("one", "two", "three"):
            it.say(f"{word} " + "lo " * 4)
        it.prompt()
        it.keys("word " * 40 + "end\r")
        it.wait(lambda: "tokens, and the context holds 60" in " ".join(it.text.split()))
        it.wait(lambda: "end" in it.shown[it.emulated.cursor.y])  # the message is still there
        told = " ".join(it.text.split())
        assert "/drop" in told or "shorten the message" in told
        it.keys("\x03/tokens\r")
        it.wait("exchanges")
        it.keys("\x03\x03")
        assert it.end() == 0


def test_hostile_answers_send_no_escape_sequence() -> None:
    with Terminal("--no-history") as it:
        it.say("hostile")
        assert "␛]0;owned" in it.text
        for sequence in ("\x1b[2J", "\x1b]0;owned", "\x9b", "\u202e", "\x08\x08"):
            assert sequence in HOSTILE
            assert sequence not in it.raw
        it.say("/params markdown=off")
        it.say("hostile")
        assert "\x1b]0;owned" not in it.raw
        assert "\x1b[2J" not in it.raw


def test_markdown_and_thoughts() -> None:
    with Terminal("--no-history") as it:
        it.say("markdown")
        assert "**" not in it.text
        assert re.search(r"^ *left +12$", it.text, re.MULTILINE)
        assert "```python" in it.lines
        assert re.search("\x1b\\[[0-9;]*m", it.raw)
        it.say("think")
        assert "thought0 thought1 thought2 thought3 thought4" in it.lines
        it.say("/params thoughts=fold markdown=off")
        it.say("think")
        assert "thought 5 words (/params thoughts=show to read them)" in it.text
        it.say("markdown")
        assert "Some **bold** text." in it.lines


@pytest.mark.parametrize("size", [(20, 8), (200, 50)])
@pytest.mark.parametrize("message", ["lines", "code"])
def test_long_answers_scroll(size: tuple[int, int], message: str) -> None:
    with Terminal("--no-history", "-c", "4000", "--predict", "-1", size=size) as it:
        it.say(message)
        wanted = [f"line {i}" if message == "lines" else f"x{i} = {i}" for i in range(60)]
        assert [line for line in it.lines if line in wanted] == wanted


def test_a_window_that_changes_its_size() -> None:
    with Terminal("--no-history", "-c", "4000", size=(60, 12)) as it:
        it.prompt()
        it.keys("slow\r")
        it.wait("word20 ")
        it.resize(90, 20)
        it.wait("word120 ")
        it.keys("\x03")
        it.wait("stopped")
        it.prompt()
        words = set(re.findall(r"word\d+", it.text))
        assert {f"word{i}" for i in range(120)} <= words
        it.resize(30, 10)
        it.keys("\x0c")  # the emulator leaves its cursor where it was: all is drawn anew
        it.wait(lambda: it.shown[0] == ">")
        it.say("hello")
        assert "heard 'hello' in 3" in " ".join(it.text.split())


def test_completion_and_no_colour() -> None:
    with Terminal("--no-history", NO_COLOR="1") as it:
        it.prompt()
        it.keys("/he")
        it.wait("this list")
        it.keys("\t")
        it.wait("> /help")
        it.keys("\r")
        it.wait("Alt-Enter")
        it.say("markdown")
        styles = {style for found in re.findall("\x1b\\[([0-9;]*)m", it.raw) for style in found.split(";")}
        assert "1" in styles  # bold is no colour
        assert not {style for style in styles if re.fullmatch("3[0-8]|4[0-8]|9[0-7]|10[0-7]", style)}


def test_a_dumb_terminal_gets_text_alone() -> None:
    with Terminal(TERM="dumb") as it:
        it.wait(">")
        it.keys("hello\r")
        it.wait("heard 'hello' in 1")
        it.keys("/nothing\r")
        it.wait("no command /nothing")
        it.keys("hello\r")
        it.wait("heard 'hello' in 3")
        it.keys("\x04")
        assert it.end() == 0
        assert "\x1b" not in it.raw


def test_a_single_turn() -> None:
    with Terminal("-st", "--no-history") as it:
        it.say("/system brief")
        it.keys("hello\r")
        it.wait("heard 'hello' in 2")
        assert it.end() == 0
