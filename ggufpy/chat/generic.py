"""Tools for models whose template knows none: offered in the system message, called in JSON within <tool_call>.

In: messages and an offer. Out: messages that any template writes, and the syntax of the answer. The form is the one
that most models have seen (Hermes'); whether a model follows it is its own matter, unless a call is required.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ggufpy.chat.messages import checked
from ggufpy.chat.probe import Message
from ggufpy.chat.syntax import Syntax
from ggufpy.chat.syntax.families.hermes import JSON
from ggufpy.chat.syntax.form import Form
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.template import ChatTemplate
from ggufpy.chat.tools import Offer

_OFFER = """You can call these functions, one JSON object each line:
{tools}
To call one, write a JSON object with its name and arguments between tags, and nothing behind it:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>
What it gives comes between <tool_response> and </tool_response>. Answer without a call if none is needed."""


def is_wanted(template: ChatTemplate, syntax: Syntax) -> bool:
    """Whether a template shows neither calls nor what tools there are."""
    if not isinstance(syntax, FormSyntax) or syntax.form.calls:
        return False
    tool = {"type": "function", "function": {"name": "pick_quince", "parameters": {"type": "object"}}}
    ask = [{"role": "user", "content": "a"}]
    return "pick_quince" not in template.render(ask, tools=[tool])


def with_calls(syntax: Syntax) -> Syntax:
    """A template's syntax with the calls of this module."""
    form = syntax.form if isinstance(syntax, FormSyntax) else Form()
    header = syntax.header if isinstance(syntax, FormSyntax) else ""
    return FormSyntax("generic", Form(form.thoughts, (JSON,), form.wraps), header)


def needs(messages: object, offer: Offer | None) -> bool:
    """Whether there is an offer, or messages that call tools or come from them."""
    if offer is not None and offer.chosen:
        return True
    if not isinstance(messages, list | tuple):
        return False  # what is wrong with it is said elsewhere
    return any(isinstance(m, Mapping) and (m.get("role") == "tool" or m.get("tool_calls")) for m in messages)


def told(messages: Any, offer: Offer | None) -> list[Message]:
    """`messages` with the offer and with calls and what tools gave as texts. Raises GGUFError as `checked` does."""
    made = [_said(message) for message in checked(messages)]
    if offer is None or not offer.chosen:
        return made
    tools = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in offer.chosen)
    text = _OFFER.format(tools=tools)
    if made and made[0]["role"] in ("system", "developer"):
        return [{**made[0], "content": f"{_text(made[0]['content'])}\n\n{text}".strip()}, *made[1:]]
    return [{"role": "system", "content": text}, *made]


def _said(message: Message) -> Message:
    """A message without calls: these are written below its content, and what a tool gave is said by the user."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(message['content'])}\n</tool_response>"}
    if "tool_calls" not in message:
        return message
    calls = [_written(call["function"]) for call in message["tool_calls"]]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([text for text in (_text(message["content"]), *calls) if text])}


def _written(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {written or "{}"}}}\n</tool_call>'


def _text(content: str | list[Message] | None) -> str:
    return "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""
