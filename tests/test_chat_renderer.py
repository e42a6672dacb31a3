"""The process of templates: that it is there, is started again, shares nothing, and ends with those who use it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_renderer import renderer as shared
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.chat import ChatTemplate, Renderer, limits, rendering
from ggufpy.chat import renderer as module
from ggufpy.chat.limits import Allowance, TemplateFailure, TooMuch
from ggufpy.errors import GGUFError

USER = [{"role": "user", "content": "Hi"}]
SHOW = "{{ messages[0].content }}"
_CHARACTERS = st.characters(codec=None)  # single surrogates among them
SLOW = "{{ ('a-' * 8000000) | wordwrap(3) }}"  # seconds in one call, which no meter sees
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX has it")
proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux has it")


def render(renderer: Renderer, source: str = SHOW, **variables: Any) -> str:
    return renderer.render(source, {"messages": USER, **variables}, (), Allowance(limits.SECONDS))


def pid(renderer: Renderer) -> int:
    assert renderer._worker is not None
    return renderer._worker._process.pid


def runs(number: int) -> bool:
    """Whether there is a process of this number, one that nobody has waited for among them."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def program(code: str, **options: Any) -> subprocess.Popen[str]:
    """A Python with the path of this one."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finished(code: str, **options: Any) -> str:
    """What a program prints; it must end well."""
    process = program(code, **options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_one_process_for_many_templates() -> None:
    renderer = Renderer()
    assert render(renderer) == "Hi"
    first = pid(renderer)
    assert [render(renderer, f"{{{{ x }}}}{i}", x=i) for i in range(20)] == [f"{i}{i}" for i in range(20)]
    with pytest.raises(TemplateFailure, match="zero"):
        render(renderer, "{{ 1 / 0 }}")
    assert pid(renderer) == first
    renderer.close()


def test_a_process_that_takes_too_long_is_killed_and_another_takes_its_place() -> None:
    renderer = Renderer()
    render(renderer)
    first = pid(renderer)
    with pytest.raises(TooMuch, match="takes longer"):
        renderer.render(SLOW, {}, (), Allowance(1.0))
    assert not runs(first)
    assert render(renderer) == "Hi"
    assert pid(renderer) != first
    renderer.close()


def test_a_process_that_was_killed_while_idle_is_replaced() -> None:
    renderer = Renderer()
    render(renderer)
    os.kill(pid(renderer), signal.SIGTERM)
    wait_until(lambda: not renderer._worker.alive)  # type: ignore[union-attr]
    assert render(renderer) == "Hi"
    renderer.close()


@posix
def test_close_ends_the_process_and_refuses_what_comes_later() -> None:
    chat = ChatTemplate(SHOW)
    number = pid(chat._renderer)
    chat.close()
    chat.close()
    assert not runs(number)
    with pytest.raises(GGUFError, match="closed"):
        chat.render(USER)


@posix
def test_a_template_that_nobody_holds_ends_its_process() -> None:
    chat = ChatTemplate(SHOW)
    number = pid(chat._renderer)
    del chat
    gc.collect()
    assert not runs(number)


@posix
@pytest.mark.parametrize(
    "end", ["", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_the_process_ends_with_its_parent(end: str) -> None:
    code = "from ggufpy.chat import ChatTemplate; chat = ChatTemplate('x')\n"
    process = program(code + "print(chat._renderer._worker._process.pid, flush=True)\n" + end)
    number = int(process.communicate(timeout=120)[0])
    wait_until(lambda: not runs(number))


@posix
def test_a_process_at_work_ends_when_its_parent_was_killed() -> None:
    code = f"""
from ggufpy.chat import Renderer
from ggufpy.chat.limits import Allowance
import os, signal, threading, time
renderer = Renderer()
renderer.render("x", {{}}, (), Allowance(9))
print(renderer._worker._process.pid, flush=True)
threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
renderer.render({SLOW!r}, {{}}, (), Allowance(60))
"""
    number = int(program(code).communicate(timeout=120)[0])
    wait_until(lambda: not runs(number))


def test_this_process_imports_no_jinja2() -> None:
    code = f"""
import sys
from ggufpy.chat import ChatTemplate
assert ChatTemplate({SHOW!r}).render({USER!r}) == "Hi"
sys.exit("jinja2" in sys.modules)
"""
    finished(code)


def test_the_process_imports_little_beside_jinja2() -> None:
    code = "import sys; import ggufpy.chat.worker, ggufpy.chat.sandbox; print(*sys.modules)"
    loaded = set(finished(code).split())
    ours = {name for name in loaded if name.startswith("ggufpy")}
    rooms = {"ggufpy", "ggufpy.support", "ggufpy.support.lazy", "ggufpy.support.version", "ggufpy.chat"}
    assert ours == rooms | {
        f"ggufpy.chat.{name}" for name in ("worker", "rendering", "sandbox", "meter", "growth", "limits")
    }
    assert not loaded & {"numpy", "numba", "subprocess", "yaml", "multiprocessing"}


@proc
def test_what_the_process_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "quince")
    monkeypatch.setenv("PYTHONSTARTUP", "quince")
    with open(__file__) as held:
        os.set_inheritable(held.fileno(), True)
        renderer = Renderer()
        render(renderer)
        place = Path("/proc") / str(pid(renderer))
        assert b"quince" not in (place / "environ").read_bytes()
        assert {link.name for link in (place / "fd").iterdir()} <= {"0", "1", "2", "3"}
        limited = (place / "limits").read_text()
        assert f"Max data size             {limits.MAX_MEMORY}" in limited
        assert "Max file size             0 " in limited
        assert "Max processes             0 " in limited
        assert os.getsid(pid(renderer)) != os.getsid(0)
    renderer.close()


def test_threads_share_a_process() -> None:
    chat = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    failures: list[object] = []

    def ask(number: int) -> None:
        for i in range(20):
            content = f"{number} {i} " * (1 + 500 * number)
            if chat.render([{"role": "user", "content": content}]) != content:
                failures.append((number, i))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    chat.close()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(_CHARACTERS),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(_CHARACTERS), inner)))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_values_arrive_as_they_are(value: Any) -> None:
    source = "{{ x | tojson(ensure_ascii=true) }}"
    assert json.loads(render(shared(), source, x=value)) == json.loads(json.dumps(value))


def test_long_chats_have_more_time() -> None:
    """What they may take beside is not counted, as there is none that a template could waste with short ones."""
    renderer, allowance = Renderer(), Allowance(limits.SECONDS)
    for _ in range(5):
        renderer.render("{{ x | upper | lower | upper | length }}", {"x": "a" * 4_000_000}, (), allowance)
    assert allowance.left > limits.SECONDS / 2
    renderer.close()


def test_long_and_strange_texts() -> None:
    renderer = Renderer()
    for text in ("\ud800\udc00", "\udfff", "\0", "😀", "\r\n", "x" * 5_000_000, "é" * 3_000_000):
        assert render(renderer, "{{ x }}", x=text) == text
    renderer.close()


@posix
def test_an_interrupt_leaves_the_renderer_as_it_was() -> None:
    code = f"""
from ggufpy.chat import Renderer
from ggufpy.chat.limits import Allowance
import os, signal, threading
renderer = Renderer()
render = lambda source, seconds: renderer.render(source, {{"x": 1}}, (), Allowance(seconds))
render("x", 9)
threading.Timer(0.2, lambda: os.killpg(os.getpgid(0), signal.SIGINT)).start()
try:
    render({SLOW!r}, 60)
except KeyboardInterrupt:
    print("interrupted")
print(render("{{{{ x }}}}", 9))
"""
    assert finished(code, start_new_session=True) == "interrupted\n1\n"


@posix
def test_an_interrupt_while_idle_is_nothing_to_the_process() -> None:
    renderer = Renderer()
    render(renderer)
    first = pid(renderer)
    os.kill(first, signal.SIGINT)
    assert render(renderer) == "Hi"
    assert pid(renderer) == first
    renderer.close()


@posix
def test_without_standard_files(tmp_path: Path) -> None:
    code = f"""
import os
for number in (0, 1, 2):
    os.close(number)
from ggufpy.chat import ChatTemplate
chat = ChatTemplate({SHOW!r})
open({str(tmp_path / "text")!r}, "w").write(str((chat.render({USER!r}), chat.isolated)))
"""
    program(code).communicate(timeout=120)
    assert (tmp_path / "text").read_text() == "('Hi', True)"


def _in_child(queue: Any, chat: ChatTemplate | None) -> None:
    chat = chat or ChatTemplate(SHOW)
    text = chat.render(USER)
    queue.put((text, pid(chat._renderer), chat.isolated))


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_in_children_of_multiprocessing(method: str) -> None:
    """A child that was forked has the template of its parent, and a process of its own for it."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("the system does not have it")
    context: Any = multiprocessing.get_context(method)
    chat = ChatTemplate(SHOW)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, chat if method == "fork" else None))
    child.start()
    text, number, isolated = queue.get(timeout=120)
    child.join()
    assert (text, isolated) == ("Hi", True)
    assert number != pid(chat._renderer)
    assert chat.render(USER) == "Hi"
    if sys.platform != "win32":
        wait_until(lambda: not runs(number))
    chat.close()


@posix
def test_a_fork_that_ends_as_programs_do_leaves_the_process() -> None:
    code = f"""
import os
from ggufpy.chat import ChatTemplate
chat = ChatTemplate({SHOW!r})
child = os.fork()
if child:
    os.waitpid(child, 0)
    assert chat._renderer._worker.alive
    print(chat.render({USER!r}))
"""
    assert finished(code) == "Hi\n"


# -- where no process can be had --


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("executable", ""),
        ("executable", None),
        ("executable", "/usr/bin/uwsgi"),
        ("executable", "/nowhere/python3"),
        ("frozen", True),
    ],
)
def test_programs_that_are_no_python(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    chat = ChatTemplate(SHOW)
    assert not chat.isolated
    assert chat.render(USER) == "Hi"
    with pytest.raises(GGUFError, match="takes longer"):
        ChatTemplate("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}").render(USER)
    chat.close()
    with pytest.raises(GGUFError, match="closed"):
        chat.render(USER)


@posix
@pytest.mark.parametrize("script", ["exit 0", "echo something else", "echo ready; exec sleep 60"])
def test_a_python_that_is_not_what_it_says(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "python3"
    other.write_text(f"#!/bin/sh\n{script}\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setattr(limits, "START_SECONDS", 1.0)
    chat = ChatTemplate(SHOW)
    assert chat.render(USER) == "Hi"
    assert not chat.isolated


def test_a_template_that_had_its_process_killed_never_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    render(renderer)
    with pytest.raises(TooMuch):
        renderer.render(SLOW, {}, (), Allowance(1.0))

    def refuse() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(module, "Worker", refuse)
    with pytest.raises(TemplateFailure, match="starts no other process"):
        render(renderer)


# -- what is no request and no answer --


class Strange:
    pass


@pytest.mark.parametrize("value", [Strange(), {1, 2}, {Strange(): 1}, b"bytes", lambda: 1])
def test_variables_that_are_no_json(value: Any) -> None:
    with pytest.raises(GGUFError, match="must be JSON values") as caught:
        ChatTemplate(SHOW).render(USER, thing=value)
    assert "\n" not in str(caught.value)


def test_variables_within_one_another() -> None:
    value: list[Any] = []
    value.append(value)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    chat = ChatTemplate(SHOW)
    for one in (value, deep):
        with pytest.raises(GGUFError, match="must be JSON values"):
            chat.render(USER, thing=one)
    assert chat.render(USER) == "Hi"


@pytest.mark.parametrize(
    "answer", [b"", b"\xff", b"{", b"[]", b"1", b'{"text": 1}', b'{"failure": "x"}', b"[" * 100_000]
)
def test_answers_that_are_none(answer: bytes) -> None:
    with pytest.raises(TemplateFailure, match="no answer"):
        rendering.text_of(answer)


def test_requests_carry_numbers_and_texts_unchanged() -> None:
    values = {"a": 1, "b": 1.5, "c": None, "d": True, "e": [1, [2]], "f": {"g": "é"}, "h": 10**30, "i": float("inf")}
    text = ChatTemplate("{{ v | tojson }}").render(USER, v=values)
    assert json.loads(text) == values
    assert ChatTemplate("{{ v[0] }}").render(USER, v=(1, 2)) == "1"
