"""Models loaded and unloaded by hand over HTTP, and what happens with each: llama-server's router."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from llm_fakes import fake_llama
from serving import Answered, Running, serving

from ggufpy.errors import GGUFError
from ggufpy.llm import Llama
from ggufpy.server.settings import ServerOptions

CHAT = "/v1/chat/completions"


@dataclass
class Models:
    """What the server loads: one when it may, one that fails, one at once. They make steps while `steps` is set."""

    may: threading.Event
    steps: threading.Event

    def quick(self) -> Llama:
        llm = fake_llama(n_ctx=4096, n_parallel=2)
        engine: Any = llm.engine
        engine.before = lambda: self.steps.wait(20)
        return llm

    def slow(self) -> Llama:
        assert self.may.wait(20)
        return self.quick()

    def broken(self) -> Llama:
        raise GGUFError("tensor output.weight is cut short")


@pytest.fixture
def models() -> Models:
    made = Models(threading.Event(), threading.Event())
    made.steps.set()
    return made


@pytest.fixture
def server(models: Models) -> Iterator[Running]:
    made: dict[str, Callable[[], Llama]] = {"quick": models.quick, "slow": models.slow, "broken": models.broken}
    with serving(made, ServerOptions(max_models=2, load_wait=0.2), keys=("secret",)) as running:
        yield running
        models.may.set()


def ask(server: Running, path: str, body: object = None, method: str | None = None) -> Answered:
    return server.ask(path, body, method, {"authorization": "Bearer secret"})


def status(server: Running, name: str) -> dict[str, object]:
    """What GET /models says of a model."""
    found = {each["id"]: each["status"] for each in ask(server, "/models").json["data"]}
    return dict(found[name])


def until(server: Running, name: str, value: str) -> None:
    """Waits for a model's state."""
    end = time.monotonic() + 10
    while status(server, name)["value"] != value:
        assert time.monotonic() < end
        time.sleep(0.005)


def chat(server: Running, name: str) -> Answered:
    said = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0, "model": name}
    return ask(server, CHAT, said)


def test_a_model_is_loaded_and_unloaded_by_hand(server: Running, models: Models) -> None:
    assert status(server, "slow") == {"value": "unloaded"}
    assert ask(server, "/models/load", {"model": "slow"}).json == {"success": True}  # and is not waited for
    until(server, "slow", "loading")
    assert chat(server, "quick").status == 200
    assert ask(server, "/models/load", {"model": "slow"}).json == {"success": True}  # it loads
    models.may.set()
    until(server, "slow", "loaded")
    assert ask(server, "/models/load", {"model": "slow"}).json["error"]["message"] == "slow is loaded already"
    assert chat(server, "slow").json["model"] == "slow"
    assert ask(server, "/models/unload", {"model": "slow:latest"}).json == {"success": True}
    assert status(server, "slow") == {"value": "unloaded"}
    answer = ask(server, "/models/unload", {"model": "slow"})
    assert (answer.status, answer.json["error"]["message"]) == (400, "slow is not loaded")
    assert chat(server, "slow").status == 200


def test_a_load_that_fails_is_told(server: Running) -> None:
    assert ask(server, "/models/load", {"model": "broken"}).json == {"success": True}
    end = time.monotonic() + 10
    while "failed" not in (found := status(server, "broken")):
        assert time.monotonic() < end
    told = "broken cannot be loaded: tensor output.weight is cut short"
    assert found == {"value": "unloaded", "failed": True, "message": told}
    answer = chat(server, "broken")
    assert (answer.status, answer.json["error"]["message"]) == (500, told)


def test_a_listing_has_what_llama_servers_has(server: Running) -> None:
    answer = ask(server, "/models?reload=1").json
    assert answer["object"] == "list"
    assert [each["id"] for each in answer["data"]] == ["quick", "slow", "broken"]
    for each in answer["data"]:
        assert {"id", "aliases", "tags", "object", "owned_by", "created", "status", "architecture", "path"} <= set(each)
        assert each["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}


@pytest.mark.parametrize(
    ("path", "body", "method", "code", "said"),
    [
        ("/models/load", {"model": "../quick"}, None, 404, "there is no model '../quick'; known: quick, slow, broken"),
        ("/models/unload", {"model": "x" * 100_000}, None, 404, "there is no model"),
        ("/models/load", {}, None, 400, "model is missing"),
        ("/models/load", {"model": 5}, None, 400, "model is missing"),
        ("/models/load", {"model": "quick", "args": []}, None, 400, "args is no field"),
        ("/models/load", b"nothing", None, 400, "no JSON"),
        ("/models?reloads=1", None, None, 400, "reloads is no field of this request; did you mean reload?"),
        ("/models", {"model": "a/b"}, None, 400, "ggufpy pull"),
        ("/models?model=quick", None, "DELETE", 400, "remove the file"),
    ],
)
def test_what_cannot_be_is_one_line(
    server: Running, path: str, body: object, method: str | None, code: int, said: str
) -> None:
    answer = ask(server, path, body, method)
    assert answer.status == code
    assert said in answer.json["error"]["message"]
    assert answer.json["error"]["code"] == code


@pytest.mark.parametrize("path", ["/models", "/models/load", "/models/unload"])
def test_a_key_is_asked_for(server: Running, path: str) -> None:
    assert server.ask(path, None if path == "/models" else {"model": "quick"}).status == 401


def test_where_there_is_no_room_clients_are_told_when_to_come_again(server: Running, models: Models) -> None:
    models.may.set()
    models.steps.clear()
    held = [threading.Thread(target=chat, args=(server, name)) for name in ("quick", "slow")]
    for thread in held:
        thread.start()
    until(server, "quick", "loaded")
    until(server, "slow", "loaded")
    answer = chat(server, "broken")
    models.steps.set()
    for thread in held:
        thread.join()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "2 of 2 models" in answer.json["error"]["message"]
