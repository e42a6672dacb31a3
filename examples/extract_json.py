"""Facts out of texts, as JSON of a schema, which every answer keeps to: no retries, no repair.

Usage: python examples/extract_json.py [MODEL]

With pydantic, `Person.model_json_schema()` is such a schema, and `Person.model_validate_json(content)` reads the
answer.
"""

import json
import sys

import ggufpy

TEXTS = [
    "Maria Silva is 34 years old and lives in Porto, where she builds boats.",
    "My friend Tom, 27, moved to Oslo last year to work as a nurse.",
]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"type": "string", "maxLength": 40},
        "trade": {"enum": ["builder", "nurse", "teacher", "other"]},
    },
    "required": ["name", "age", "city", "trade"],
    "additionalProperties": False,
}


def extract(llm: ggufpy.Llama, text: str, schema: dict) -> dict:
    """An object of the schema, made of a text."""
    answer = llm.create_chat_completion(
        [
            {"role": "system", "content": "Write down as JSON what the text says of the person."},
            {"role": "user", "content": text},
        ],
        max_tokens=200,
        temperature=0.0,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    choice = answer["choices"][0]
    if choice["finish_reason"] == "length":  # it ends in the middle of the object
        raise SystemExit("the answer is longer than max_tokens")
    return json.loads(choice["message"]["content"])


def main(model: str) -> None:
    with ggufpy.Llama(model, n_ctx=1024) as llm:
        for text in TEXTS:
            print(extract(llm, text, PERSON))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
