"""A model in a process that was forked while it was at work: one line, and never a wait for who is not there."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from llm_fakes import fake_llama

import ggufpy
from ggufpy.llm import Llama

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the system does not fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def said_in_child(work: Callable[[], Any]) -> str:
    """What a forked child that does some work ends with; one that takes 10 s is ended."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        try:
            said = repr(work())
        except ggufpy.GGUFError as error:
            said = str(error)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child was still waiting"
    return said


@pytest.mark.parametrize(
    "work",
    [
        lambda llm, stream: llm("a", max_tokens=2),
        lambda llm, stream: list(llm.create_chat_completion([{"role": "user", "content": "x"}], 2, stream=True)),
        lambda llm, stream: next(stream),
        lambda llm, stream: llm.reset(),
        lambda llm, stream: llm.eval([1]),
    ],
)
def test_a_model_that_was_at_work(work: Callable[[Llama, Any], Any]) -> None:
    with fake_llama() as llm:
        at_work, go_on = threading.Event(), threading.Event()
        stream = llm("abc", max_tokens=2, stream=True)  # begun on neither side

        def wait() -> None:
            at_work.set()
            assert go_on.wait(30)

        llm.engine.before = wait  # type: ignore[attr-defined]
        thread = threading.Thread(target=lambda: llm("a", max_tokens=2))
        thread.start()
        assert at_work.wait(10)
        try:
            assert "fork" in said_in_child(lambda: work(llm, stream))
            assert said_in_child(llm.close) == "None"
        finally:
            go_on.set()
            thread.join()
        llm.engine.before = None  # type: ignore[attr-defined]
        assert llm("a", max_tokens=1)["choices"][0]["text"] == "b"
