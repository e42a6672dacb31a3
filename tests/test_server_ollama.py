"""ollama's routes through its own client: chats, texts, tools, formats, embeddings, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pytest
from llm_fakes import EOS, VOCAB, fake_llama
from serving import Running, serving, until

from ggufpy import hub
from ggufpy.llm import Llama
from ggufpy.support.folders import cache_dir

ollama = pytest.importorskip("ollama")
pydantic = pytest.importorskip("pydantic")

MODEL = cache_dir() / "models" / "smollm2" / hub.MODELS["smollm2"].file_name
PLAIN = {"temperature": 0, "repeat_penalty": 1, "num_predict": 4}
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def scripted(*answers: str) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits of a model that gives the first answer to a chat of one question, the second to the next, and so on."""

    def rows(held: Sequence[int]) -> np.ndarray:
        text = bytes(token for token in held if token < 256).decode("utf-8", "replace")
        asked, _, said = text.rpartition(";a")
        answer = answers[min(asked.count("assistant:"), len(answers) - 1)].encode()
        place = len(said.encode())
        row = np.full(VOCAB, -20.0, np.float32)
        row[answer[place] if place < len(answer) else EOS] = 20.0
        return row

    return rows


def failing(held: Sequence[int]) -> np.ndarray:
    """Logits of a model that fails behind the letter d."""
    if held[-1] == ord("d"):
        raise RuntimeError("no d")
    row = np.zeros(VOCAB, np.float32)
    row[(held[-1] + 1) % 256] = 10
    return row


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    made = {
        "endless": lambda: fake_llama(n_ctx=4096, succ=lambda token: ord("x")),
        "failing": lambda: fake_llama(n_ctx=512, rows=failing),
        "fake": lambda: fake_llama(n_ctx=4096, n_parallel=2),
        "caller": lambda: fake_llama(n_ctx=8192, n_parallel=2, rows=scripted(CALL, "it is 5")),
        "cut": lambda: fake_llama(n_ctx=8192, n_parallel=2, rows=scripted(CALL[: CALL.index("3")])),
    }
    with serving(made) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return ollama.Client(server.url)


def test_a_stream_says_what_a_whole_answer_says(client: Any) -> None:
    whole = client.chat("fake", HELLO, options=PLAIN)
    parts = list(client.chat("fake", HELLO, options=PLAIN, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content == "bcde"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    for last in (whole, parts[-1]):
        assert last.done_reason == "length"
        assert last.prompt_eval_count == 1 + len("user:hello;a")  # and the beginning token
        assert last.eval_count == 4
        assert last.total_duration >= last.prompt_eval_duration + last.eval_duration
        assert min(last.prompt_eval_duration, last.eval_duration, last.load_duration) > 0
    assert parts[0].total_duration is None
    made = datetime.fromisoformat(whole.created_at.replace("Z", "+00:00")[:26] + "+00:00")
    assert abs((datetime.now(timezone.utc) - made).total_seconds()) < 60


def test_streaming_is_what_is_done_unless_it_is_refused(server: Running) -> None:
    said = {"model": "fake", "messages": HELLO, "options": PLAIN}
    answer = server.ask("/api/chat", said)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["done"] for line in answer.lines] == [False] * 4 + [True]
    assert server.ask("/api/chat", {**said, "stream": None}).lines[-1]["done"] is True
    assert server.ask("/api/chat", {**said, "stream": False}).json["message"]["content"] == "bcde"


def test_an_answer_ends_where_the_model_or_a_stop_ends_it(client: Any) -> None:
    ended = client.chat("fake", HELLO, options={**PLAIN, "num_predict": -1})
    assert (ended.message.content, ended.done_reason) == ("bcdefghijklmnopqrstuvwxyz", "stop")
    stopped = client.chat("fake", HELLO, options={**PLAIN, "num_predict": -2, "stop": ["ef"]})
    assert (stopped.message.content, stopped.done_reason) == ("bcd", "stop")


def test_names_may_have_the_tag_latest(client: Any) -> None:
    assert client.chat("fake:latest", HELLO, options=PLAIN).model == "fake:latest"
    assert client.generate("Fake", "ab", options=PLAIN).response == "bcde"


def test_texts_go_on_from_the_context_of_an_earlier_one(client: Any) -> None:
    first = client.generate("fake", "ab", system="be kind", options=PLAIN)
    told = bytes(token for token in first.context if token < 256).decode()
    assert told == "system:be kind;user:ab;abcde"
    second = client.generate("fake", "cd", context=first.context, options=PLAIN)
    assert second.context[: len(first.context)] == first.context
    assert second.prompt_eval_count == len(second.context) - 4
    whole = client.generate("fake", "x", options={**PLAIN, "num_predict": -1})
    assert whole.context[-1] == EOS  # the next message begins behind the end of this one


def test_raw_texts_are_continued_as_they_are(client: Any) -> None:
    made = client.generate("fake", "ab", raw=True, options=PLAIN)
    assert (made.response, made.context) == ("cdef", None)
    with pytest.raises(ollama.ResponseError, match="raw leaves the prompt as it is") as caught:
        client.generate("fake", "ab", raw=True, system="x", options=PLAIN)
    assert caught.value.status_code == 400


def test_tools_are_called_and_their_answers_heard(client: Any) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    said: list[Any] = [{"role": "user", "content": "2 and 3?"}]
    made = client.chat("caller", said, tools=[add], options={"temperature": 0, "repeat_penalty": 1})
    (call,) = made.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", {"a": 2, "b": 3})
    assert (made.message.content, made.done_reason) == ("", "stop")
    parts = list(client.chat("caller", said, tools=[add], stream=True, options={"temperature": 0, "repeat_penalty": 1}))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [{"a": 2, "b": 3}]
    said += [made.message, {"role": "tool", "content": str(add(**call.function.arguments)), "tool_name": "add"}]
    told = client.chat("caller", said, tools=[add], options={"temperature": 0, "repeat_penalty": 1})
    assert told.message.content == "it is 5"
    assert told.message.tool_calls is None


def test_a_call_that_was_cut_short_is_told_as_text(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    made = client.chat("cut", HELLO, tools=[tool], options={"temperature": 0, "repeat_penalty": 1, "num_predict": 62})
    assert made.message.tool_calls is None
    assert made.message.content.startswith('{"name": "add", "arguments": {"a": 2')
    assert made.done_reason == "length"


def test_logprobs_come_with_each_token(client: Any) -> None:
    parts = list(client.chat("fake", HELLO, options=PLAIN, logprobs=True, top_logprobs=2, stream=True))
    made = [entry for part in parts for entry in part.logprobs or ()]
    assert [entry.token for entry in made] == list("bcde")
    assert all(len(entry.top_logprobs) == 2 and entry.top_logprobs[0].token == entry.token for entry in made)
    whole = client.generate("fake", "ab", options=PLAIN, logprobs=True)
    assert [entry.token for entry in whole.logprobs] == list("bcde")


def test_models_are_loaded_and_unloaded_as_they_are_asked_to(client: Any, server: Running) -> None:
    assert client.generate("fake", keep_alive="10m").done_reason == "load"
    (found,) = [model for model in client.ps().models if model.name == "fake:latest"]
    assert 590 < (found.expires_at - datetime.now(timezone.utc)).total_seconds() <= 600
    assert found.context_length == 4096
    assert client.chat("fake", [], keep_alive=-1).done_reason == "load"
    (found,) = [model for model in client.ps().models if model.name == "fake:latest"]
    assert found.expires_at.year > 2200
    assert client.chat("fake", [], keep_alive=0).done_reason == "unload"
    assert "fake:latest" not in [model.name for model in client.ps().models]
    client.chat("fake", HELLO, options=PLAIN, keep_alive=0)
    for _ in range(100):
        if not [model for model in client.ps().models if model.name == "fake:latest"]:
            return
    raise AssertionError("it is loaded still")


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda c: c.chat("nobody", HELLO), 404, "model 'nobody' not found; known: "),
        (lambda c: c.chat("../fake", HELLO), 404, "not found"),
        (lambda c: c.chat("fake", HELLO, think=True), 400, "does not support thinking"),
        (lambda c: c.chat("fake", HELLO, options={"num_ctx": 1 << 20}), 400, "served with 4096"),
        (lambda c: c.chat("fake", HELLO, options={"temprature": 1}), 400, "did you mean temperature"),
        (lambda c: c.chat("fake", HELLO, options={"temperature": -1}), 400, "options.temperature is -1"),
        (lambda c: c.chat("fake", HELLO, options={"top_p": 3}), 400, "top_p"),
        (lambda c: c.chat("fake", HELLO, keep_alive="soon"), 400, "keep_alive"),
        (lambda c: c.chat("fake", [{"role": "user", "content": "x" * 5000}]), 400, "holds 4096"),
        (lambda c: c.chat("fake", [{"role": "tool", "content": "5"}]), 400, "no call before it"),
        (lambda c: c.chat("fake", [{**HELLO[0], "images": [b"x"]}]), 400, "images cannot be honoured"),
        (lambda c: c.chat("fake", HELLO, format={"type": 5}), 400, "format"),
        (lambda c: c.generate("fake", "x", template="{{ .Prompt }}"), 400, "template cannot be honoured"),
        (lambda c: c.generate("fake", "x", suffix="y"), 400, "suffix"),
        (lambda c: c.generate("fake", "x", context=[99999]), 400, "vocabulary"),
        (lambda c: c.delete("fake"), 403, "remove the file"),
        (lambda c: c.copy("fake", "other"), 403, "--alias"),
        (lambda c: c.create("other", from_="fake"), 403, "ggufpy convert"),
        (lambda c: c.push("fake"), 403, "Hugging Face"),
        (lambda c: c.pull("smollm2"), 403, "--allow-pull"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(client: Any, call: Callable[[Any], Any], status: int, said: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert caught.value.status_code == status
    assert said in caught.value.error
    assert "\n" not in caught.value.error


def test_a_stream_that_fails_ends_with_the_reason(server: Running, client: Any) -> None:
    body: dict[str, Any] = {"model": "failing", "messages": [{"role": "user", "content": "x"}]}
    answer = server.ask("/api/chat", {**body, "options": {"temperature": 0, "repeat_penalty": 1}})
    assert answer.status == 200
    *said, last = answer.lines
    assert "bcd".startswith("".join(line["message"]["content"] for line in said))
    assert list(last) == ["error"]
    assert "no d" in last["error"]
    with pytest.raises(ollama.ResponseError, match="no d"):
        list(client.chat("failing", body["messages"], stream=True, options={"temperature": 0, "repeat_penalty": 1}))


def test_a_client_that_goes_gives_its_place_back(server: Running) -> None:
    options = {"temperature": 0, "repeat_penalty": 1, "num_predict": 3000}
    body = json.dumps({"model": "endless", "messages": HELLO, "options": options}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server.ask("/api/chat", {"model": "endless"})
    (served,) = (one for one in server.service.pool.loaded if one.name == "endless")
    for _ in range(3):  # more than there are places
        with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as gone:
            gone.sendall(head + body)
            assert gone.recv(100).startswith(b"HTTP/1.1 200")
            until(lambda: served.queue.taken == 1)
        until(lambda: not served.queue.taken)


def test_keys_are_asked_for() -> None:
    with serving({"fake": lambda: fake_llama(n_ctx=512)}, keys=("secret",)) as running:
        with pytest.raises(ollama.ResponseError, match="API key") as caught:
            ollama.Client(running.url).list()
        assert caught.value.status_code == 401
        assert ollama.Client(running.url, headers={"Authorization": "Bearer secret"}).list().models == []
        assert running.ask("/api/version").status == 401


def test_clients_find_the_server(server: Running) -> None:
    assert server.ask("/", method="HEAD").status == 200
    version = server.ask("/api/version").json["version"]
    assert all(part.isdecimal() for part in version.split("."))
    assert server.ask("/api/version", method="HEAD").status == 200


def test_blobs_are_refused(server: Running) -> None:
    assert server.ask("/api/blobs/sha256:ab", b"x").status == 403
    assert server.ask("/api/blobs/sha256:ab", method="HEAD").status == 403


needs_model = pytest.mark.skipif(not MODEL.is_file(), reason="smollm2 has not been fetched (ggufpy pull smollm2)")


@pytest.fixture(scope="module")
def real() -> Iterator[Running]:
    with serving({"smollm2": lambda: Llama(str(MODEL), n_ctx=256, n_parallel=2)}) as running:
        yield running


@needs_model
def test_a_schema_is_held(real: Running) -> None:
    class City(pydantic.BaseModel):
        size: Literal["small", "large"]
        by_the_sea: bool

    client, asked = ollama.Client(real.url), [{"role": "user", "content": "Lisbon?"}]
    made = client.chat("smollm2", asked, format=City.model_json_schema(), options={"temperature": 0})
    City.model_validate_json(made.message.content)
    some = client.generate("smollm2", "Hello.", format="json", options={"seed": 1, "num_predict": 3})
    assert some.response.lstrip().startswith("{")


@needs_model
def test_an_assistants_message_at_the_end_is_gone_on_with(real: Running) -> None:
    said = [{"role": "user", "content": "Count to five."}, {"role": "assistant", "content": "1, 2, 3, 4,"}]
    made = ollama.Client(real.url).chat("smollm2", said, options={"temperature": 0, "num_predict": 2})
    assert made.message.content.strip().startswith("5")


@needs_model
def test_vectors_are_made_of_texts(real: Running) -> None:
    client = ollama.Client(real.url)
    made = client.embed("smollm2", ["a cat", "a dog"])
    assert [len(vector) for vector in made.embeddings] == [576, 576]
    assert np.linalg.norm(made.embeddings, axis=1) == pytest.approx(1)
    assert made.prompt_eval_count > 3
    short = client.embed("smollm2", "a cat", dimensions=16).embeddings[0]
    assert np.linalg.norm(short) == pytest.approx(1)
    wanted = np.array(made.embeddings[0][:16])
    assert np.allclose(short, wanted / np.linalg.norm(wanted), atol=1e-5)
    one = client.embeddings("smollm2", "a cat").embedding
    assert np.allclose(np.array(one) / np.linalg.norm(one), made.embeddings[0], atol=1e-5)
    long = "word " * 400
    assert client.embed("smollm2", long).prompt_eval_count == 256
    with pytest.raises(ollama.ResponseError) as caught:
        client.embed("smollm2", long, truncate=False)
    assert caught.value.status_code == 400
    assert client.embed("smollm2", []).embeddings == []


@needs_model
def test_the_same_seed_gives_the_same_text_to_several_at_once(real: Running) -> None:
    async def ask(client: Any) -> str:
        stream = await client.chat("smollm2", HELLO, options={"seed": 7, "num_predict": 12}, stream=True)
        return "".join([part.message.content async for part in stream])

    async def all_of_them() -> list[str]:
        client = ollama.AsyncClient(real.url)
        return await asyncio.gather(*(ask(client) for _ in range(3)))

    texts = asyncio.run(all_of_them())
    assert len(set(texts)) == 1
    assert texts[0]
