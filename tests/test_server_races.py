"""What happens on the server between threads, connections and tasks: wakes, clients that go, stall or pipeline."""

from __future__ import annotations

from typing import Any

import pytest
from llm_fakes import FakeEngine
from serving import until

from ggufpy.errors import GGUFError
from ggufpy.generate.driver import Driver
from ggufpy.generate.loop import Loop, Pushed
from ggufpy.runtime.request import Event, Finished, Request, Token

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200_000, "temperature": 0,
        "logit_bias": {"257": -100}}  # fmt: skip


class First:
    """Draws the likeliest token."""

    def accept(self, token: int) -> None:
        pass

    def sample(self, logits: Any) -> int:
        return int(logits.argmax())


# -- the engine's thread --


def test_a_text_whose_tokens_are_taken_while_it_is_paused_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = FakeEngine(n_ctx=64)
    driver = Driver(Loop(engine), lambda: None, lambda error: None)
    request = Request([97], First(), limit=20)
    events: list[Event] = []
    bare = Pushed.paused

    def paused(box: Pushed, running: bool) -> bool:
        full = bare(box, running)
        if full:  # whoever has the tokens takes them all, between the look and what follows from it
            driver.taken(request, len(request.produced) - request.taken)
        return full

    monkeypatch.setattr(Pushed, "paused", paused)
    driver.submit(request, events.append)
    until(lambda: bool(events) and isinstance(events[-1], Finished), 3)
    assert sum(isinstance(event, Token) for event in events) == 20
    driver.close()


def test_what_is_pushed_while_a_loop_closes_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = FakeEngine()
    loop = Loop(engine)
    bare = Loop._add

    def late(self: Loop, box: Any) -> None:  # the loop closes between the look at whether it is open and this
        monkeypatch.setattr(Loop, "_add", bare)
        loop.close()
        bare(self, box)

    monkeypatch.setattr(Loop, "_add", late)
    events: list[Event] = []
    with pytest.raises(GGUFError, match="closed"):
        loop.push(Request([97], First()), events.append)
    assert not loop._boxes
