"""Models that say what they are told to, served to Anthropic's clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from llm_fakes import EOS, VOCAB, parts
from serving import Answered, Running

from ggufpy.chat import ChatTemplate
from ggufpy.generate.loading import Later
from ggufpy.llm import Llama

HEAD = "<|im_start|>assistant\n"
TEMPLATE = (
    "{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{%- if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}"
    "{%- for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
URL = "/v1/messages"
TOOL = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THOUGHT = "<think>\nOslo, I guess.\n</think>\n\n"
HELLO: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 400,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello"}],
}


def saying(*texts: str, n_ctx: int = 8192) -> Llama:
    """A model whose answers are `texts`, one for each turn of the assistant's, the last one again for further ones."""
    scripts = [[*text.encode(), EOS] for text in texts]

    def rows(held: Any) -> np.ndarray[Any, Any]:
        whole = bytes(token for token in held if token < 256)
        said = whole.rpartition(HEAD.encode())[2].removeprefix(b"<think>\n\n</think>\n\n")
        script = scripts[min(whole.count(HEAD.encode()), len(scripts)) - 1]
        row = np.zeros(VOCAB, np.float32)
        row[script[min(len(said), len(script) - 1)]] = 60.0
        return row

    template: Any = Later(lambda: ChatTemplate(TEMPLATE))
    return Llama.from_parts(replace(parts(n_ctx=n_ctx, rows=rows, n_parallel=2), template=template))


def ask(server: Running, more: Mapping[str, Any] | None = None, **headers: str) -> Answered:
    """A message; `more` changes the body, `headers` have _ for -."""
    return server.ask(URL, {**HELLO, **(more or {})}, headers={k.replace("_", "-"): v for k, v in headers.items()})


def joined(events: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The blocks that a client makes of a stream's events, inputs as text, and the last message_delta."""
    blocks: list[dict[str, Any]] = []
    final: dict[str, Any] = {}
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            names = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
            kind = event["delta"]["type"]
            name, key = names.get(kind, "input"), names.get(kind, "partial_json")
            blocks[-1][name] += event["delta"][key]
        elif event["type"] == "message_delta":
            final = event
    return blocks, final
