"""The places of a model: who has which, what is shown of them, and their texts in files; names of such files."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from byte_model import write_byte_model
from hypothesis import given
from hypothesis import strategies as st
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy import GGUFError, Llama
from ggufpy.server.names import existing, plain_name, writable
from ggufpy.server.problems import Problem
from ggufpy.server.queue import Queue
from ggufpy.server.settings import ServerOptions

FRANCE, GERMANY = "What is the capital of France?", "What is the capital of Germany?"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "slots"
    made.mkdir()
    return made


@pytest.fixture
def server(path: Path, folder: Path) -> Iterator[Running]:
    with serving({"m": lambda: Llama(path, n_parallel=2, n_threads=1)}, ServerOptions(slots_dir=str(folder))) as one:
        yield one


def complete(server: Running, prompt: str, **more: Any) -> Any:
    body = {"prompt": prompt, "n_predict": 8, "temperature": 0, "cache_prompt": True, **more}
    answer = server.ask("/completion", body)
    assert answer.status == 200, answer.body
    return answer.json


def act(server: Running, slot: object, action: str, name: object = None, status: int = 200) -> Any:
    body = {} if name is None else {"filename": name}
    answer = server.ask(f"/slots/{slot}?action={action}", body)
    assert answer.status == status, answer.body
    return answer.json


def test_a_saved_text_is_read_once(server: Running, folder: Path) -> None:
    first = complete(server, FRANCE, id_slot=1)
    assert first["timings"]["prompt_n"] == 31
    saved = act(server, 1, "save", "slot1.bin")
    assert (saved["id_slot"], saved["filename"]) == (1, "slot1.bin")
    assert saved["n_saved"] == 31 + 8 - 1  # the last token was drawn, and not evaluated
    assert saved["n_written"] == (folder / "slot1.bin").stat().st_size
    assert saved["timings"]["save_ms"] >= 0
    assert complete(server, GERMANY, id_slot=1)["timings"]["prompt_n"] == 8  # what differs
    assert act(server, 0, "erase")["n_erased"] == 0
    assert act(server, 1, "erase")["n_erased"] > 31
    act(server, 1, "erase")
    restored = act(server, 0, "restore", "slot1.bin")
    assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
    again = complete(server, FRANCE, id_slot=0)
    assert again["timings"]["prompt_n"] == 1
    assert again["content"] == first["content"]


def test_another_process_has_it_too(server: Running, path: Path, folder: Path) -> None:
    first = complete(server, FRANCE)
    act(server, 0, "save", "a.bin")
    with serving({"m": lambda: Llama(path, n_threads=1)}, ServerOptions(slots_dir=str(folder))) as other:
        act(other, 0, "restore", "a.bin")
        again = complete(other, FRANCE)
    assert again["timings"]["prompt_n"] == 1
    assert again["content"] == first["content"]


def test_an_erased_text_is_read_anew(server: Running) -> None:
    assert complete(server, FRANCE, id_slot=1)["timings"]["prompt_n"] == 31
    assert complete(server, FRANCE, id_slot=1)["timings"]["prompt_n"] == 1
    assert act(server, 1, "erase")["n_erased"] == 38
    assert complete(server, FRANCE, id_slot=1)["timings"]["prompt_n"] == 31


def test_texts_at_work_go_on_while_others_are_saved(server: Running) -> None:
    alone = complete(server, "abc", n_predict=150, ignore_eos=True, temperature=0)["content"]
    said: list[str] = []

    def write() -> None:
        said.append(complete(server, "abc", n_predict=150, ignore_eos=True, cache_prompt=False)["content"])

    thread = threading.Thread(target=write)
    thread.start()
    for i in range(5):
        complete(server, FRANCE, id_slot=1, n_predict=2)
        act(server, 1, "save", f"{i}.bin")
        act(server, 1, "restore", f"{i}.bin")
    thread.join(30)
    assert said == [alone]


@pytest.mark.parametrize("change", ["cut", "flipped", "empty", "other"])
def test_damaged_files_are_refused(server: Running, folder: Path, change: str) -> None:
    complete(server, FRANCE)
    act(server, 0, "save", "a.bin")
    data = bytearray((folder / "a.bin").read_bytes())
    if change == "flipped":
        data[-3] ^= 1
    new = {"cut": data[:-1], "empty": b"", "other": b"GGUF" + bytes(100), "flipped": data}[change]
    (folder / "a.bin").write_bytes(new)
    message = act(server, 0, "restore", "a.bin", 400)["error"]["message"]
    assert "'a.bin'" in message
    assert str(folder) not in message
    assert complete(server, FRANCE)["tokens_predicted"] == 8


def test_a_text_of_another_model_is_refused(server: Running, tmp_path: Path, folder: Path) -> None:
    complete(server, FRANCE)
    act(server, 0, "save", "a.bin")
    other = write_byte_model(tmp_path / "n.gguf", seed=1)
    with serving({"n": lambda: Llama(other, n_threads=1)}, ServerOptions(slots_dir=str(folder))) as running:
        assert "is not of" in act(running, 0, "restore", "a.bin", 400)["error"]["message"]


def test_without_a_folder_nothing_is_saved() -> None:
    with serving({"fake": fake_llama}) as running:
        error = act(running, 0, "save", "a.bin", 501)["error"]
    assert error["type"] == "not_supported_error"
    assert "--slots-dir" in error["message"]


def test_what_is_no_slot_and_no_action(server: Running) -> None:
    complete(server, "a")
    for slot in ("2", "-1", "x", "999999999999999999999", "%00"):
        assert "there is no slot" in act(server, slot, "erase", status=400)["error"]["message"]
    assert "there is no action" in act(server, 0, "nothing", status=400)["error"]["message"]
    assert "has no text" in act(server, 1, "save", "a.bin", 400)["error"]["message"]
    assert "no saved file" in act(server, 1, "restore", "b.bin", 400)["error"]["message"]


# -- what is shown --


def test_slots_are_shown_while_they_work_and_after() -> None:
    with serving({"fake": lambda: fake_llama(n_ctx=4096, n_parallel=2)}) as running:
        assert running.ask("/slots").status == 503  # nothing is loaded, and looking loads nothing
        complete(running, "hello", n_predict=2)
        idle, untouched = running.ask("/slots").json
        assert (idle["id"], idle["is_processing"], idle["n_ctx"]) == (0, False, 4096)
        assert (idle["n_prompt_tokens"], idle["next_token"][0]["n_decoded"]) == (6, 2)
        assert idle["params"]["n_predict"] == 2
        assert untouched == {"id": 1, "n_ctx": 4096, "speculative": False, "is_processing": False}
        with streams(running, 2):
            until(lambda: all(slot["is_processing"] for slot in running.ask("/slots").json))
            busy = running.ask("/slots").json
            assert [slot["id"] for slot in busy] == [0, 1]
            assert len({slot["id_task"] for slot in busy} | {idle["id_task"]}) == 3
            assert all(slot["params"]["stream"] for slot in busy)
            full = running.ask("/slots?fail_on_no_slot=1")
            assert (full.status, full.json["error"]["message"]) == (503, "no slot available")
            assert full.json["error"]["type"] == "unavailable_error"
            more = running.ask("/slots").json[0]["next_token"][0]["n_decoded"]
            assert more >= busy[0]["next_token"][0]["n_decoded"]
        until(lambda: not any(slot["is_processing"] for slot in running.ask("/slots").json))
        assert running.ask("/slots?fail_on_no_slot=1").status == 200


@contextmanager
def streams(server: Running, count: int) -> Iterator[None]:
    """So many streams that do not end, until this does."""
    body = {"prompt": "a", "n_predict": 4000, "ignore_eos": True, "temperature": 0, "stream": True}
    data = json.dumps(body).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", urlsplit(server.url).port), 10) for _ in range(count)]
    try:
        for client in clients:
            client.sendall(head + data)
            assert client.recv(64).startswith(b"HTTP/1.1 200")
        yield
    finally:
        for client in clients:
            client.close()


# -- who has which --


def test_places_are_numbered_from_the_lowest_free_one() -> None:
    async def check() -> None:
        queue = Queue(3, 10)
        async with queue.place("a") as first, queue.place("a") as second:
            assert (first, second, queue.taken) == (0, 1, 2)
            async with queue.place("b") as third:
                assert third == 2
        async with queue.place("a") as first, queue.place("b", 2) as last, queue.place("c") as next_one:
            assert (first, last, next_one) == (0, 2, 1)
        assert queue.taken == 0

    asyncio.run(check())


def test_who_waits_for_a_taken_place_lets_others_by() -> None:
    async def check() -> None:
        queue = Queue(2, 10)
        had: list[tuple[str, int]] = []

        async def have(client: str, number: int | None) -> None:
            async with queue.place(client, number) as place:
                had.append((client, place))
                await asyncio.sleep(0)

        async with queue.place("a", 1):
            tasks = [asyncio.create_task(have("b", 1))]
            await asyncio.sleep(0)
            assert queue.waiting == 1
            tasks += [asyncio.create_task(have("c", None)), asyncio.create_task(have("b", None))]
            for _ in range(10):
                await asyncio.sleep(0)
            assert had == [("c", 0), ("b", 0)]
        await asyncio.gather(*tasks)
        assert had[-1] == ("b", 1)
        assert (queue.taken, queue.waiting) == (0, 0)

    asyncio.run(check())


@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 2), st.booleans()), max_size=12))
def test_no_place_is_lost_and_none_is_given_twice(steps: list[tuple[str, int | None, bool]]) -> None:
    async def check() -> None:
        queue, held = Queue(3, 100), set[int]()

        async def have(client: str, number: int | None) -> None:
            async with queue.place(client, number) as place:
                assert place not in held
                assert number is None or place == number
                held.add(place)
                try:
                    await asyncio.sleep(0.0001)
                finally:
                    held.remove(place)

        tasks = []
        for client, number, leaves in steps:
            task = asyncio.create_task(have(client, number))
            await asyncio.sleep(0)
            if leaves:
                task.cancel()
            tasks.append((task, leaves))
        for task, leaves in tasks:
            if leaves:
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await task
        assert (queue.taken, queue.waiting) == (0, 0)

    asyncio.run(check())


def test_a_full_queue_refuses_a_pinned_text_too() -> None:
    async def check() -> None:
        queue = Queue(2, 0)
        async with queue.place("a", 1):
            queue.check()
            queue.check(0)
            with pytest.raises(Problem, match="as many as may"):
                queue.check(1)

    asyncio.run(check())


# -- names --

BAD = [
    "", ".", "..", "...", "../a", "a/../b", "/etc/passwd", "a/b", "a\\b", "..\\a", "C:\\a", "C:a", "a:b", "\\\\host\\a",
    "a\0b", "\0", "a\nb", "a\rb", "a\x7f", "a\x85b", "con", "CON", "con.bin", "Con.tar.gz", "nul", "NUL.bin", "aux",
    "prn.x", "com1", "COM9.bin", "lpt1", "LPT3.x", "com\u00b9", "conin$", "CONOUT$.x", "a.", "a ", " a", ".hidden",
    ".ggufpy-0123456789abcdef.tmp", "-rf", "~", "~root", "a*", "a?", 'a"', "<a>", "a|b", "a..b", "\uff0e\uff0e",
    "\uff0fetc", "a\uff0fb", "\uff3ca", "\u2025", "\u2024\u2024", "a\u2215b", "a\u2216b", "\ufeffa", "a\u202eb",
    "a\u200bb", "\u2028", "x" * 201, "\u00e9" * 101, "c\uff4fn",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(GGUFError, match="a plain name such as"):
        plain_name("filename", name)


@pytest.mark.parametrize("name", [None, 5, ["a"], {"a": 1}, True])
def test_names_are_texts(name: Any) -> None:
    with pytest.raises(GGUFError, match="filename"):
        plain_name("filename", name)


GOOD = ["a", "slot1.bin", "chat 1.bin", "r\u00e9sum\u00e9.bin", "console.bin", "a-b_c~", "x" * 200]


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_are_taken(name: str, tmp_path: Path) -> None:
    assert plain_name("filename", name) == name
    (tmp_path / name).write_bytes(b"x")
    assert Path(existing(str(tmp_path), name)).read_bytes() == b"x"


@given(st.text(max_size=12))
def test_no_name_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    try:
        plain = plain_name("filename", name)
    except GGUFError:
        return
    assert os.path.basename(plain) == plain
    assert os.path.normpath(os.path.join("/folder", plain)) == f"/folder/{plain}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_links_folders_and_pipes_are_left_alone(tmp_path: Path, server: Running, folder: Path) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"precious")
    (folder / "link.bin").symlink_to(outside)
    (folder / "dangling.bin").symlink_to(tmp_path / "new.bin")
    (folder / "folder.bin").mkdir()
    os.mkfifo(folder / "pipe.bin")
    complete(server, "abc")
    for name in ("link.bin", "dangling.bin", "folder.bin", "pipe.bin"):
        for action in ("save", "restore"):
            assert "no regular file" in act(server, 0, action, name, 400)["error"]["message"]
        with pytest.raises(GGUFError):
            writable(str(folder), name)
    assert outside.read_bytes() == b"precious"
    assert not (tmp_path / "new.bin").exists()


def test_bad_names_reach_no_file(server: Running, folder: Path) -> None:
    complete(server, "abc")
    for name in BAD:
        for action in ("save", "restore"):
            act(server, 0, action, name, 400)
    act(server, 0, "save", status=400)
    assert list(folder.iterdir()) == []
