"""LangChain's ChatOpenAI and OpenAIEmbeddings against the server, as applications use them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from serving import Running, serving
from small_chat import write_chat_model

import ggufpy

langchain = pytest.importorskip("langchain_openai")
pydantic = pytest.importorskip("pydantic")


class Place(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    """Where something is."""

    city: Literal["Oslo", "Rome"]
    degrees: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = write_chat_model(tmp_path_factory.mktemp("langchain"))
    with serving({"small": lambda: ggufpy.Llama(path, n_ctx=2048, n_parallel=2, n_threads=1)}) as running:
        yield running


@pytest.fixture
def chat(server: Running) -> Any:
    return langchain.ChatOpenAI(
        base_url=server.url + "/v1", api_key="none", model="small", temperature=0, max_tokens=200, max_retries=0
    )


def test_an_answer_whole_streamed_and_awaited(chat: Any) -> None:
    short = chat.model_copy(update={"max_tokens": 8})
    whole = short.invoke("Where?")
    assert whole.usage_metadata["output_tokens"] <= 8
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    parts = list(short.stream("Where?"))
    assert "".join(part.text for part in parts) == whole.text
    assert asyncio.run(short.ainvoke("Where?")).text == whole.text
    first, second = short.batch(["Where?", "Where?"])
    assert first.text == second.text == whole.text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_is_an_object_of_a_class(chat: Any, method: str) -> None:
    made = chat.with_structured_output(Place, method=method).invoke("Where?")
    assert isinstance(made, Place)


def test_an_answer_is_json(chat: Any) -> None:
    """Any JSON will do, and a model without sense may not come to its end: what counts is that it is asked for."""
    made = chat.with_structured_output(Place, method="json_mode", include_raw=True).invoke("Where? As JSON.")
    assert made["raw"].text.lstrip()[0] in '{"'


def test_tools_are_called_and_answered(chat: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def weather(city: Literal["Oslo", "Rome"]) -> str:
        """The weather."""
        return f"sunny in {city}"

    for choice in ("any", "weather"):
        bound = chat.bind_tools([weather], tool_choice=choice, parallel_tool_calls=False)
        made = bound.invoke("Weather?")
        (call,) = made.tool_calls
        assert call["name"] == "weather"
        assert call["args"]["city"] in ("Oslo", "Rome")
        whole: Any = None
        for part in bound.stream("Weather?"):
            whole = part if whole is None else whole + part
        assert [one["args"] for one in whole.tool_calls] == [call["args"]]
    answer = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    after = chat.bind_tools([weather], tool_choice="none").invoke([HumanMessage("Weather?"), made, answer])
    assert not after.tool_calls


def test_embeddings(server: Running) -> None:
    """LangChain sends the ids of OpenAI's tokens unless it is told not to."""
    vectors = langchain.OpenAIEmbeddings(
        base_url=server.url + "/v1", api_key="none", model="small", check_embedding_ctx_length=False
    )
    one, two = vectors.embed_documents(["one", "two"])
    assert len(one) == len(two) == len(vectors.embed_query("one"))
    assert vectors.embed_query("one") == pytest.approx(one, abs=1e-6)
