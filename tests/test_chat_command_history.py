"""What is kept of earlier chats: a file for the user alone, of bounded size; and where it cannot be kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufpy.commands._chat import history
from ggufpy.commands._chat.history import PrivateHistory
from ggufpy.support import console

posix = pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")


def opened(file: Path) -> tuple[PrivateHistory, list[str]]:
    """A history, and what it reports."""
    said: list[str] = []
    return PrivateHistory(file, said.append), said


@posix
def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "made" / "chat_history"
    made, said = opened(file)
    made.store_string("one\ntwo")
    made.store_string("+ # three")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    again, more = opened(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(again.load_history_strings()) == ["+ # three", "one\ntwo"]
    assert said + more == []


@given(texts=st.lists(st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1)))
def test_any_text_comes_back(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("history") / "chat_history"
    made, said = opened(file)
    for text in texts:
        made.store_string(text)
    kept = [text.encode("utf-8", "replace").decode() for text in texts]
    assert list(made.load_history_strings()) == kept[::-1]
    assert said == []


def test_it_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "chat_history"
    made, _ = opened(file)
    made.store_string("old " * 1000)
    with open(file, "ab") as out:
        for i in range(12_000):
            out.write(b"\n# ggufpy chat\n" + f"+message {i} {'x' * 80}\n".encode())
    assert file.stat().st_size > history.MOST_BYTES
    again, said = opened(file)
    kept = list(again.load_history_strings())
    assert file.stat().st_size <= history.MOST_BYTES // 2
    assert kept[0].startswith("message 11999 ")
    assert len(kept) > 3000
    assert all(text.startswith("message ") for text in kept)
    assert said == []


@posix
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    made, said = opened(tmp_path / "chat_history")
    made.store_string("x")
    made.store_string("y")
    assert len(said) == 1


def test_what_is_no_file_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made, said = opened(tmp_path / "file" / "chat_history")
    made.store_string("x")
    assert list(made.load_history_strings()) == []
    assert len(said) == 1
    assert said[0].startswith("what you say is not kept for later chats: ")
    folder, more = opened(tmp_path)
    assert list(folder.load_history_strings()) == []
    folder.store_string("x")
    assert len(more) == 1


def test_the_cache_folder_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path))
    assert history.path() == tmp_path / "chat_history"


def test_the_stream_below_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    stream = sys.stdout
    with console.streams():
        assert sys.stdout is not stream
        assert console.below(sys.stdout) is stream
    assert console.below(stream) is stream
