"""A running `ggufpy serve` as OpenAI's client and LangChain see it: a stream, an object of a class, a tool, vectors.

First `ggufpy serve` in another terminal, then: python examples/openai_client.py [URL] (pip install openai)

With LangChain (pip install langchain-openai) it is ChatOpenAI(base_url=URL, api_key="none", model="smollm2"), and for
vectors OpenAIEmbeddings(base_url=URL, api_key="none", model="smollm2", check_embedding_ctx_length=False).
"""

import json
import os
import sys
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel


class Review(BaseModel):
    """What is to be found in a text."""

    stars: Literal[1, 2, 3, 4, 5]
    mood: Literal["happy", "neutral", "angry"]


ROLL: Any = {
    "type": "function",
    "function": {
        "name": "roll",
        "description": "Rolls a die.",
        "parameters": {
            "type": "object",
            "properties": {"sides": {"type": "integer", "enum": [6, 12, 20]}},
            "required": ["sides"],
        },
    },
}


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
    client = OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"))  # any, unless it has --api-key
    model = client.models.list().data[0].id

    question: Any = [{"role": "user", "content": "Name a river."}]
    for chunk in client.chat.completions.create(
        model=model, messages=question, max_tokens=24, temperature=0, stream=True
    ):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    text: Any = [{"role": "user", "content": "A lovely place, the best cake in town! How many stars?"}]
    found = client.chat.completions.parse(model=model, messages=text, response_format=Review, max_tokens=100, seed=1)
    print(found.choices[0].message.parsed)

    dice: Any = [{"role": "user", "content": "Roll a die with 20 sides."}]
    called = client.chat.completions.create(
        model=model, messages=dice, tools=[ROLL], tool_choice="required", max_tokens=100, seed=1
    )
    for call in called.choices[0].message.tool_calls or []:
        if call.type == "function":
            print(call.function.name, json.loads(call.function.arguments))

    vectors = client.embeddings.create(model=model, input=["a river", "a die"])
    print([len(each.embedding) for each in vectors.data], vectors.usage.prompt_tokens, "tokens")


if __name__ == "__main__":
    main()
