"""`ggufpy chat` but for its terminal: messages on stdin, commands, settings, files of conversations, help."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import chat_fakes
import pytest
from chat_fakes import HOSTILE, FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy import cli
from ggufpy.commands import chat as chat_command
from ggufpy.commands._chat import saved, slash
from ggufpy.commands._chat.conversation import Conversation
from ggufpy.commands._chat.plain import Plain
from ggufpy.commands._chat.session import Chat
from ggufpy.commands._chat.settings import Settings, names
from ggufpy.errors import GGUFError


def program(stdin: str | bytes, *words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The program around the fake model, with something on stdin."""
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    line = [sys.executable, chat_fakes.__file__, *words]
    return subprocess.run(line, input=raw, capture_output=True, env={**os.environ, **environ}, timeout=60)


# -- lines on stdin --


def test_lines_are_messages() -> None:
    done = program("hello\n\n  \nagain\n/system be brief\nwith it\n", "--temp", "0", "-s", "3")
    assert (done.returncode, done.stderr) == (0, b"system prompt set; the conversation of 2 exchanges goes on with it "
                                                 b"(/reset begins anew)\n")  # fmt: skip
    assert done.stdout.decode().splitlines() == [
        "heard 'hello' in 1 messages [('seed', 3), ('temp', 0.0)]",
        "heard 'again' in 3 messages [('seed', 3), ('temp', 0.0)]",
        "heard 'with it' in 6 messages [('seed', 3), ('temp', 0.0)]",
    ]


def test_all_of_stdin_is_one_message() -> None:
    done = program("one\ntwo\n", "-st", "--thoughts", "show")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"heard 'one\\ntwo' in 1 messages []\n"
    done = program("think\nmore", "-st", "--thoughts", "show")
    assert done.stdout.startswith(b"thought0 thought1 thought2 thought3 thought4 \n\nheard 'think\\nmore'")
    assert program("think\nmore", "-st").stdout.startswith(b"heard 'think\\nmore'")


def test_json() -> None:
    done = program("hello\nagain\n", "--json", "-sys", "brief", "-n", "3")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert found["messages"][2]["content"] == "heard 'hello' in "
    first, second = found["turns"]
    assert (first["prompt"], first["cached"], first["tokens"], first["finish"]) == (6, 0, 3, "length")
    assert second["cached"] == 6


@pytest.mark.parametrize(
    ("stdin", "words", "status", "error"),
    [
        ("", (), 2, "no message: stdin is empty"),
        (" \n\n", (), 2, "no message: stdin is empty"),
        ("", ("-st",), 2, "no message: stdin is empty"),
        (b"ok\n\xff\n", (), 1, "line 2 of stdin is not UTF-8 text (byte 0)"),
        ("ok\n/nothing\nnever\n", (), 1, "line 2 of stdin: no command /nothing (/help lists them)"),
        ("a " * 300, (), 1, "the conversation is 302 tokens, and the context holds 200: shorten the message"),
        ("x", ("--temp", "nan"), 2, "'nan' is not a finite number"),
        ("x", ("--top-p", "2"), 2, "top_p"),
        ("x", ("--load", "missing.json"), 1, "cannot read missing.json: No such file or directory"),
        ("x", ("--reasoning", "maybe"), 2, "'maybe' is none of on, off, auto"),
        ("x", ("--chat-template-kwargs", "[1]"), 2, "is not a JSON object"),
        ("x", ("--chat-template-kwargs", "{"), 2, "is not JSON"),
    ],
)
def test_what_cannot_be_is_one_line(stdin: str | bytes, words: tuple[str, ...], status: int, error: str) -> None:
    done = program(stdin, *words)
    assert done.returncode == status
    assert error in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_control_characters_are_shown_and_not_sent() -> None:
    done = program("hostile\n")
    text = done.stdout.decode()
    assert "\x1b" in HOSTILE
    assert not [letter for letter in text if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160]
    assert "red ␛[31m title ␛]0;owned␇" in text


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_the_answer_and_the_program() -> None:
    line = [sys.executable, chat_fakes.__file__, "-c", "4000"]
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"slow\nnever\n")
    child.stdin.flush()
    begun = b""
    while b"word1" not in begun:
        begun += child.stdout.read(8)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert (begun + out).decode().startswith("word0 word1")
    assert b"never" not in out
    assert "stopped; what came is kept" in err.decode()


def test_the_template_is_given_what_the_command_line_says() -> None:
    done = program("x", "--reasoning", "off", "--reasoning-effort", "low", "--chat-template-kwargs", '{"a": [1]}')
    wanted = {"a": [1], "enable_thinking": False, "reasoning_effort": "low"}
    assert f"[('chat_template_kwargs', {wanted})]" in done.stdout.decode()


def test_a_model_without_a_template(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(FakeModel, "chat_template", None)
    monkeypatch.setattr(chat_command, "load", lambda args: FakeModel())
    assert cli.main(["chat"]) == 1
    assert capsys.readouterr().err == (
        "ggufpy chat: the model has no chat template: continue a text with 'ggufpy run --raw'\n"
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("Alt-Enter", "--load FILE", "-sys TEXT", "--temp", "--reasoning", "ggufpy chat -st <", "smollm2"):
        assert word in text


# -- a chat --


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """A chat whose answers go nowhere."""
    monkeypatch.chdir(tmp_path)
    made = Chat(FakeModel(), Conversation("brief"), Settings(), Plain(quiet=True))
    made.timings = False
    return made


def told(chat: Chat, line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said to a line."""
    capsys.readouterr()
    chat.take(line)
    return capsys.readouterr().err


def test_every_command_is_there_once_and_has_help() -> None:
    named = [name for command in slash.COMMANDS for name in command.names]
    wanted = {"system", "reset", "save", "load", "regen", "undo", "params", "tokens", "context", "help", "exit", "quit"}
    assert wanted <= set(named)
    assert len(named) == len(set(named))
    assert all(command.help for command in slash.COMMANDS)


def test_a_command_that_fails_changes_nothing(chat: Chat) -> None:
    chat.take("hello")
    Path("bad.json").write_text('{"messages": [{"role": "user", "content": "x"}], "settings": {"top_p": 7}}')
    before = chat.conversation, chat.settings
    for line in ("/undo 3", "/load bad.json", "/load", "/save", "/drop 0", "/drop 2", "/drop x", "/params temp=x temp",
                 "/params top_p=0.5 top_k=x", "/save nowhere/x.json", "/x", "/params logit_bias=999=1"):  # fmt: skip
        with pytest.raises(GGUFError) as error:
            chat.take(line)
        assert "\n" not in str(error.value)
        assert (chat.conversation, chat.settings) == before


def test_settings_reach_the_model(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.take("/params temp=0.25 logit-bias=42=-inf max_tokens=2 seed=4294967295")
    chat.take("hello")
    chat.take("/regen")
    model: Any = chat.llm
    options = [asked for _, asked in model.calls]
    assert options[0] == {"temp": 0.25, "logit_bias": ((42, float("-inf")),), "seed": 0xFFFFFFFF, "max_tokens": 2}
    assert options[1]["seed"] == 0
    assert "max_tokens says" in told(chat, "/regen", capsys)
    assert "may be the same answer" in (chat.take("/params temp=0") or told(chat, "/regen", capsys))
    assert told(chat, "/params temp=default", capsys).startswith("now ")


def test_the_conversation_that_the_model_sees(chat: Chat) -> None:
    chat.take("think of it")
    chat.take("//path")
    model: Any = chat.llm
    messages, _ = model.calls[-1]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["reasoning_content"].startswith("thought0")
    assert messages[3]["content"] == "/path"
    chat.take("/undo")
    chat.take("/system other\nlines")
    chat.take("again")
    messages, _ = model.calls[-1]
    assert [message["content"] for message in messages[::3]] == ["other\nlines", "again"]
    chat.take("/system -")
    assert chat.conversation.whole[0]["role"] == "user"


def test_bytes_that_are_no_text_are_marked(chat: Chat) -> None:
    chat.take("caf\udce9 \ud800")
    chat.take("/system \udcff")
    assert chat.conversation.messages[0]["content"] == "caf\ufffd \ufffd"
    assert chat.conversation.system == "\ufffd"


def test_a_full_context_is_told_and_nothing_is_dropped_unasked(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    for word in "abcd":
        chat.take(f"{word} " * 15)
    before = chat.conversation
    with pytest.raises(GGUFError, match=r"is \d+ tokens, and the context holds 200: /drop \d takes") as error:
        chat.take("e " * 60)
    assert chat.conversation is before
    assert chat.draft == "e " * 60
    chat.take(f"/drop {str(error.value).partition('/drop ')[2][0]}")
    assert len(chat.conversation.exchanges) < 4
    chat.take(chat.draft)
    assert chat.draft == ""
    chat.take("/reset")
    chat.take("/params max_tokens=-1")
    assert "the context is full (200 of 200 tokens)" in told(chat, "slow", capsys)


def test_the_second_turn_costs_its_new_tokens(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.timings = True
    chat.take("hello")
    line = told(chat, "more", capsys)
    assert chat.counts is not None
    counts = chat.counts
    assert counts.cached == chat.turns[0].prompt  # the fake model keeps prompts only
    assert f"prompt {counts.prompt} tokens, {counts.prompt - counts.cached} of them evaluated; answer" in line
    assert f"context {counts.prompt + counts.tokens} of 200" in line


# -- settings --


def test_all_options_of_sampling_can_be_set() -> None:
    from ggufpy.generate.sampling.steps import options

    assert {option.name for option in options()} < set(names())
    for option in options():
        assert Settings().with_values({option.name: option.default}) == Settings()
        for flag in (*option.flags, *option.aliases, option.name.replace("_", "-")):
            assert Settings().with_words([f"{flag.lstrip('-')}=default"]) == Settings()
            with pytest.raises(GGUFError, match=f"/params {option.name}="):
                Settings().with_words([flag.lstrip("-")])


def test_values_go_through_json() -> None:
    words = ["temp=0.5", "logit_bias=1=-inf", "markdown=off", "reasoning=off", 'chat_template_kwargs={"a":1}']
    made = Settings().with_words(words)
    assert Settings().with_values(json.loads(json.dumps(made.values(), allow_nan=False))) == made
    assert made.with_words([f"{word.partition('=')[0]}=default" for word in words]) == Settings()


@given(words=st.lists(st.text(max_size=30), max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_words_are_settings_or_one_line(words: list[str]) -> None:
    with contextlib.suppress(GGUFError):
        made = Settings().with_words(words)
        assert Settings().with_values(made.values()) == made


# -- files --


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    conversation = Conversation("be brief\n日本", ()).asked("hello").answered(
        {"role": "assistant", "content": "hi \x1b[0m", "reasoning_content": "hm"}
    )  # fmt: skip
    settings = Settings().with_words(["temp=0.5", "seed=1"])
    path = str(tmp_path / "a chat.json")
    saved.save(path, conversation, settings, "/models/x.gguf")
    assert saved.load(path, Settings()) == (conversation, settings)
    assert [p.name for p in tmp_path.iterdir()] == ["a chat.json"]
    Path(path).write_text(json.dumps(conversation.whole))
    assert saved.load(path, settings) == (conversation, settings)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "no conversation"),
        ("{}", "no conversation"),
        ("[" * 100_000, "not JSON"),
        ("9" * 10_000, "not JSON|no conversation"),
        ('{"messages": 1}', "messages must be a list"),
        ('[{"role": "user"}]', r"messages\[0\].content is missing"),
        ('[{"role": "god", "content": "x"}]', "role is 'god'"),
        ('[{"role": "user", "content": 3}]', "content must be a text"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "models are given text only"),
        ('[{"role": "user", "content": "\\ud800"}]', "half a surrogate pair"),
        ('{"messages": [], "settings": 1}', "settings must be an object"),
        ('{"messages": [], "settings": {"nothing": 1}}', "no parameter 'nothing'"),
        ('{"messages": [], "settings": {"temp": NaN}}', "temp is nan"),
        ('{"messages": [], "settings": {"temp": "hot"}}', "temp"),
        ('{"messages": [], "settings": {"markdown": 1}}', "markdown"),
        ('{"messages": [], "ggufpy_chat": 2}', "version 2"),
    ],
)
def test_files_that_are_not_right(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(GGUFError, match=match) as error:
        saved.load(str(path), Settings())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with open(large, "wb") as file:
        file.truncate(saved.MOST_BYTES + 2)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for name in ("large.json", "bytes.json", "none.json", ".", "a\0b", "~nobody-of-this-name/x"):
        with pytest.raises(GGUFError):
            saved.load(str(tmp_path / name) if name[0] != "~" else name, Settings())
    for name in (".", "none/x.json", "a\0b"):
        with pytest.raises(GGUFError):
            saved.save(str(tmp_path / name), Conversation(), Settings(), "m")


def test_quick_start() -> None:
    """Nothing heavy is imported for the help."""
    code = "import sys; from ggufpy import cli; cli.main(['chat', '--help']); print({m for m in sys.modules} & " \
           "{'numpy', 'rich', 'prompt_toolkit', 'jinja2', 'numba', 'markdown_it'}, file=sys.stderr)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "set()\n"
