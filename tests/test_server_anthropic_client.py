"""Anthropic's own client against the server: what it parses, streams, raises, and sends back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic_serving import CALL, THOUGHT, TOOL, saying
from serving import Running, serving

anthropic = pytest.importorskip("anthropic")
pydantic = pytest.importorskip("pydantic")

TALK: Any = [{"role": "user", "content": "Weather in Oslo?"}]
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
ANSWER = '{"city": "Oslo", "degrees": -4}'


class Weather(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """What an answer is parsed as."""

    city: str
    degrees: int


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    models = {
        "plain": lambda: saying("Rain, I fear."),
        "thinker": lambda: saying(THOUGHT + "Rain."),
        "caller": lambda: saying(f"{THOUGHT}Let me see.\n{CALL}", "It rains in Oslo."),
        "twice": lambda: saying(f"{CALL}\n{CALL}"),
        "json": lambda: saying(ANSWER),
    }
    with serving(models, keys=("secret",)) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0) as made:
        yield made


def test_a_message(client: Any) -> None:
    message = client.messages.create(model="plain", max_tokens=100, messages=TALK)
    assert [(block.type, block.text) for block in message.content] == [("text", "Rain, I fear.")]
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", "plain")
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 20
    assert message._request_id.startswith("req_")


def test_a_stream_and_its_final_message(client: Any) -> None:
    with client.messages.stream(model="thinker", max_tokens=2000, messages=TALK, thinking=THINK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = client.messages.create(model="thinker", max_tokens=2000, messages=TALK, thinking=THINK)
    assert text == "Rain."
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "Oslo, I guess."
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == "end_turn"


def test_raw_events(client: Any) -> None:
    events = client.messages.create(model="plain", max_tokens=100, messages=TALK, stream=True)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_asynchronously(server: Running) -> None:
    async def told() -> tuple[str, list[str]]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="secret") as client:
            async with client.messages.stream(model="plain", max_tokens=100, messages=TALK) as stream:
                text = "".join([part async for part in stream.text_stream])
            calls = [client.messages.create(model="plain", max_tokens=9, messages=TALK) for _ in range(3)]
            return text, [message.content[0].text for message in await asyncio.gather(*calls)]

    assert asyncio.run(told()) == ("Rain, I fear.", ["Rain, I f"] * 3)


def test_a_tool_is_called_and_answered(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "max_tokens": 2000, "tools": [TOOL], "thinking": THINK}
    first = client.messages.create(messages=TALK, **asked)
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    call = first.content[2]
    assert (call.name, call.input, first.stop_reason) == ("weather", {"city": "Oslo"}, "tool_use")
    with client.messages.stream(messages=TALK, **asked) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[2].input == {"city": "Oslo"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]}
    talk = [*TALK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(messages=talk, **asked)
    assert second.content[-1].text == "It rains in Oslo."
    assert second.usage.cache_read_input_tokens > 200  # the first turn's


def test_the_tool_runner(client: Any) -> None:
    asked: list[str] = []

    @anthropic.beta_tool  # type: ignore[untyped-decorator]
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: of which city
        """
        asked.append(city)
        return "rain"

    runner = client.beta.messages.tool_runner(model="caller", max_tokens=400, messages=TALK, tools=[weather])
    final = runner.until_done()
    assert asked == ["Oslo"]
    assert final.content[0].text == "It rains in Oslo."


def test_calls_side_by_side(client: Any) -> None:
    message = client.messages.create(model="twice", max_tokens=400, messages=TALK, tools=[TOOL])
    ids = [block.id for block in message.content]
    assert [block.type for block in message.content] == ["tool_use", "tool_use"]
    assert len(set(ids)) == 2
    assert all(one.startswith("toolu_") for one in ids)


def test_an_answer_that_is_parsed(client: Any) -> None:
    parsed = client.messages.parse(model="json", max_tokens=100, messages=TALK, output_format=Weather)
    assert parsed.parsed_output == Weather(city="Oslo", degrees=-4)
    talk = [*TALK, {"role": "assistant", "content": parsed.content}, {"role": "user", "content": "And now?"}]
    assert client.messages.parse(model="json", max_tokens=100, messages=talk, output_format=Weather).parsed_output


def test_tokens_are_counted_as_a_message_reads_them(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "messages": TALK, "tools": [TOOL], "system": "Be brief."}
    counted = client.messages.count_tokens(**asked)
    usage = client.messages.create(max_tokens=1, **asked).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    longer = client.messages.count_tokens(model="plain", messages=[{"role": "user", "content": "x" * 20_000}])
    assert longer.input_tokens > 20_000  # more than the context holds


def test_models(client: Any) -> None:
    client.messages.create(model="plain", max_tokens=1, messages=TALK)
    listed = list(client.models.list(limit=2))  # in pages
    assert [one.id for one in listed] == ["plain", "thinker", "caller", "twice", "json"]
    one = client.models.retrieve("plain")
    assert (one.type, one.id, one.max_input_tokens) == ("model", "plain", 8192)
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError):
        client.models.list(limit=0)


def test_errors_are_of_the_client_s_classes(client: Any, server: Running) -> None:
    asked: dict[str, Any] = {"max_tokens": 10, "messages": TALK}
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="none", **asked)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id == caught.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError, match=r"tools\.0\.input_schema"):
        client.messages.create(model="plain", tools=[{"name": "f"}], **asked)
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192 maximum"):
        client.messages.create(model="plain", max_tokens=1, messages=[{"role": "user", "content": "x" * 9000}])
    with (
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as other,
        pytest.raises(anthropic.AuthenticationError),
    ):
        other.messages.create(model="plain", **asked)


def test_a_key_may_come_as_either_header(server: Running) -> None:
    body = json.dumps({"model": "plain", "max_tokens": 1, "messages": TALK}).encode()
    for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
        assert server.ask("/v1/messages", body, headers=headers).status == 200
        assert server.ask("/v1/models", headers={**headers, "anthropic-version": "2023-06-01"}).status == 200
    answer = server.ask("/v1/messages", body)
    assert answer.status == 401
    assert answer.json["error"]["type"] == "authentication_error"
    assert answer.json["request_id"] == answer.headers["request-id"]


def test_models_are_refused_in_the_manners_of_who_asks(server: Running) -> None:
    version = {"anthropic-version": "2023-06-01"}
    for path in ("/v1/models", "/v1/models/plain"):
        answer = server.ask(path, headers={**version, "x-api-key": "wrong"})
        assert answer.status == 401
        assert answer.json["error"]["type"] == "authentication_error"
        other = server.ask(path, headers={"authorization": "Bearer wrong"})
        assert other.status == 401
        assert other.json["error"]["code"] == "invalid_api_key"
    answer = server.ask("/v1/models/other", headers={**version, "x-api-key": "secret"})
    assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")
    answer = server.ask("/v1/models", headers={"anthropic-version": "never", "x-api-key": "secret"})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
