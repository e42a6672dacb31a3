"""The server with OpenAI's own Python client, as an application uses it: whole and streamed, tools, structured answers,
errors, asyncio."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from serving import Running, serving
from small_chat import write_chat_model

import ggufpy
from ggufpy.server.settings import ServerOptions

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")

ASKED: Any = [{"role": "user", "content": "Where?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
OTHER: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
KEY = "secret-key"


class Place(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    """What an answer is to be."""

    city: Literal["Oslo", "Rome"]
    degrees: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = write_chat_model(tmp_path_factory.mktemp("openai"))
    with serving(
        {"small": lambda: ggufpy.Llama(path, n_ctx=2048, n_parallel=2, n_threads=1)}, ServerOptions(queue=1), (KEY,)
    ) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def test_models(client: Any) -> None:
    (one,) = client.models.list()
    assert (one.id, one.object, one.owned_by) == ("small", "model", "ggufpy")
    assert client.models.retrieve("small").id == "small"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat(client: Any, stream: bool) -> None:
    asked = {"model": "small", "messages": ASKED, "max_tokens": 8, "seed": 3, "n": 3}
    whole = client.chat.completions.create(**asked)
    assert whole.usage.completion_tokens <= 24
    texts = [choice.message.content for choice in whole.choices]
    if not stream:
        again = client.chat.completions.create(**asked)
        assert [choice.message.content for choice in again.choices] == texts
        return
    said = ["", "", ""]
    with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
    assert said == texts
    assert chunk.usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(
        exclude={"prompt_tokens_details"}
    )


def test_log_probabilities(client: Any) -> None:
    made = client.chat.completions.create(
        model="small", messages=ASKED, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    entries = made.choices[0].logprobs.content
    assert len(entries) == 3
    for entry in entries:
        assert entry.logprob == entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    text = client.completions.create(model="small", prompt="ab", max_tokens=2, logprobs=1, echo=True, temperature=0)
    assert len(text.choices[0].logprobs.tokens) == 4
    assert text.choices[0].logprobs.token_logprobs[-1] < 0


def test_an_answer_is_an_object_of_a_class(client: Any) -> None:
    made = client.chat.completions.parse(model="small", messages=ASKED, response_format=Place, max_tokens=200, seed=1)
    assert isinstance(made.choices[0].message.parsed, Place)
    with client.chat.completions.stream(
        model="small", messages=ASKED, response_format=Place, max_tokens=200, seed=1
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= set(kinds)
    assert final.choices[0].message.parsed == made.choices[0].message.parsed


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}, {"type": "allowed_tools"}]
)
def test_tools_are_called_and_answered(client: Any, choice: Any) -> None:
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        only = [{"type": "function", "function": {"name": "weather"}}]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": only}}
    asked: Any = {
        "model": "small", "messages": ASKED, "tools": [TOOL, OTHER], "tool_choice": choice, "max_tokens": 300,
        "seed": 5, "parallel_tool_calls": False,
    }  # fmt: skip
    made = client.chat.completions.create(**asked)
    assert made.choices[0].finish_reason == "tool_calls"
    (call,) = made.choices[0].message.tool_calls
    if choice == "required":
        assert call.function.name in ("weather", "clock")
    else:
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    with client.chat.completions.stream(**asked) as stream:
        *_, last = stream
        final = stream.get_final_completion().choices[0].message.tool_calls
    assert last.type in ("chunk", "tool_calls.function.arguments.done")
    assert [(one.function.name, one.function.arguments) for one in final] == [
        (call.function.name, call.function.arguments)
    ]
    history = [*ASKED, made.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "12"}]
    after = client.chat.completions.create(model="small", messages=history, tools=[TOOL, OTHER], max_tokens=4, seed=1)
    assert after.usage.prompt_tokens > made.usage.prompt_tokens


def test_older_functions(client: Any) -> None:
    made = client.chat.completions.create(
        model="small", messages=ASKED, functions=[TOOL["function"]], function_call={"name": "weather"},
        max_tokens=300, seed=5,
    )  # fmt: skip
    assert made.choices[0].finish_reason == "function_call"
    assert json.loads(made.choices[0].message.function_call.arguments)["city"] in ("Oslo", "Rome")


def test_embeddings_come_as_base64_unless_said(client: Any) -> None:
    coded = client.embeddings.create(model="small", input=["one", "two"])
    plain = client.embeddings.create(model="small", input=["one", "two"], encoding_format="float")
    assert [each.embedding for each in coded.data] == [each.embedding for each in plain.data]
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0
    short = client.embeddings.create(model="small", input="one", dimensions=4).data[0].embedding
    assert len(short) == 4
    assert sum(x * x for x in short) == pytest.approx(1, abs=1e-5)


def test_errors_are_the_clients_own(server: Running, client: Any) -> None:
    chat = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as refused:
        chat(model="small", messages=ASKED, temperature=5)
    assert (refused.value.param, refused.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="cannot be honoured") as refused:
        chat(model="small", messages=ASKED, web_search_options={})
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError, match="no model"):
        chat(model="large", messages=ASKED)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.with_options(base_url=server.url + "/v9").models.list()
    with pytest.raises(openai.BadRequestError) as refused:
        chat(model="small", messages=[{"role": "user", "content": "a" * 5000}])
    assert refused.value.code == "context_length_exceeded"


def test_a_client_that_gives_up_leaves_nothing_behind(server: Running, client: Any) -> None:
    asked: Any = {"model": "small", "messages": ASKED, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    next(stream)
    stream.close()
    queue = server.service.pool.loaded[0].queue
    end = time.monotonic() + 10
    while queue.taken:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_asyncio(server: Running) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0) as client:
            asked: Any = {"model": "small", "messages": ASKED, "max_tokens": 8, "seed": 3}
            whole, parts = await asyncio.gather(
                client.chat.completions.create(**asked), client.chat.completions.create(**asked, stream=True)
            )
            said = [chunk async for chunk in parts]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
            vectors = await client.embeddings.create(model="small", input=["a"] * 5)
            return [whole.choices[0].message.content, text, len(vectors.data)]

    whole, text, count = asyncio.run(ask())
    assert whole == text
    assert count == 5


def test_the_example(server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parent.parent / "examples" / "openai_client.py"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(sys, "argv", [path.name, server.url + "/v1"])
    runpy.run_path(str(path), run_name="__main__")
    *_, review, call, vectors = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"stars=\d mood='\w+'", review)
    assert re.fullmatch(r"roll \{'sides': (6|12|20)\}", call)
    assert re.fullmatch(r"\[(\d+), \1\] \d+ tokens", vectors)


def test_too_many_at_once(server: Running) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0) as client:
            asked: Any = {"model": "small", "messages": ASKED, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
            calls = [client.chat.completions.create(**asked) for _ in range(12)]
            return await asyncio.gather(*calls, return_exceptions=True)

    made = asyncio.run(ask())
    refused = [each for each in made if isinstance(each, openai.RateLimitError)]
    assert refused
    assert int(refused[0].response.headers["retry-after"]) >= 1
    assert all(isinstance(each, openai.RateLimitError) or each.choices[0].finish_reason == "length" for each in made)
