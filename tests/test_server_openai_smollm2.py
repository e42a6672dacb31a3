"""OpenAI's client against the server with SmolLM2: a real template, real answers, tools and structured answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import Running, serving

import ggufpy
from ggufpy.hub import MODELS
from ggufpy.support.folders import cache_dir

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")

MODEL = cache_dir() / "models" / "smollm2" / MODELS["smollm2"].file_name
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_file(), reason="smollm2 has not been fetched (ggufpy pull smollm2)"),
]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    """Who somebody is."""

    name: str
    age: int


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"smollm2": lambda: ggufpy.Llama(MODEL, n_ctx=2048, n_parallel=4)}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_answers_side_by_side_are_those_that_come_alone(client: Any) -> None:
    questions = [f"Name an animal that begins with {letter}." for letter in "ABCDEF"]

    def ask(question: str) -> str:
        made = client.chat.completions.create(model="smollm2", messages=user(question), max_tokens=12, temperature=0)
        return str(made.choices[0].message.content)

    alone = [ask(question) for question in questions]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, questions)) == alone
    assert all(text.strip() for text in alone)


def test_what_was_said_is_an_object(client: Any) -> None:
    made = client.chat.completions.parse(
        model="smollm2", messages=user("John is 30 years old. Who is it?"), response_format=Person, temperature=0,
        max_tokens=100,
    )  # fmt: skip
    assert made.choices[0].message.parsed == Person(name="John", age=30)


def test_a_tool_is_called_and_its_answer_read(client: Any) -> None:
    asked: Any = {"model": "smollm2", "tools": [WEATHER], "temperature": 0, "max_tokens": 100}
    question = user("What is the weather in Paris?")
    with client.chat.completions.stream(
        messages=question, tool_choice="required", parallel_tool_calls=False, **asked
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    answer = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    after = client.chat.completions.create(messages=[*question, message, answer], **asked)
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_the_prompt_is_continued(client: Any) -> None:
    made = client.completions.create(
        model="smollm2", prompt=["The capital of France is", "The capital of Italy is"], max_tokens=2, temperature=0
    )
    assert [choice.text.strip().split()[0].strip(".,") for choice in made.choices] == ["Paris", "Rome"]


def test_vectors_of_like_texts_are_near(client: Any) -> None:
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "Interest rates rose by two percent."]
    made = client.embeddings.create(model="smollm2", input=texts)
    cat, kitten, rates = ([*each.embedding] for each in made.data)
    assert sum(a * b for a, b in zip(cat, kitten, strict=True)) > sum(a * b for a, b in zip(cat, rates, strict=True))
