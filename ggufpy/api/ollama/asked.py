"""What a chat or a text of ollama's asks for: from a request's body to an `Asked`, every field checked.

In: bodies of /api/chat and /api/generate. Out: what `ggufpy/api/openai/asked.py` makes, with ollama's meanings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ggufpy.api.ollama import abilities, fields, messages, options
from ggufpy.api.openai import asked
from ggufpy.api.openai.model import Model
from ggufpy.errors import GGUFError
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.api.openai.asked import Asked
    from ggufpy.chat.template import ChatTemplate

Record = dict[str, Any]
MOST_TOP = 20  # alternatives of a token
LEVELS = ("low", "medium", "high")
CHAT, GENERATE = "/api/chat", "/api/generate"


class Chatting(Model, Protocol):
    """A loaded model."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def chat_template(self) -> ChatTemplate | None: ...
    def n_ctx(self) -> int: ...


def chat_request(llm: Chatting, body: Mapping[str, Any]) -> Asked:
    """The request behind /api/chat. Raises GGUFError for what cannot be honoured."""
    fields.check(CHAT, body)
    said = messages.plain(body.get("messages"))
    sampling, limit = options.sampling(body.get("options"), llm)
    more = {**_thinking(llm, body), "tools": _some(body, "tools"), **_answer(body)}
    if said and said[-1]["role"] == "assistant" and "tool_calls" not in said[-1] and said[-1]["content"]:
        more["continue_final_message"] = True
    return asked.chat_request(llm, said, limit, {**sampling, **more, "model": body.get("model")})


def text_request(llm: Chatting, body: Mapping[str, Any]) -> Asked:
    """The request behind /api/generate. Raises GGUFError for what cannot be honoured."""
    fields.check(GENERATE, body)
    prompt = checks.text("prompt", body.get("prompt") or "")
    system = checks.text("system", body.get("system") or "")
    suffix = checks.text("suffix", body.get("suffix") or "")
    context = checks.tokens("context", body.get("context") or [], llm.n_vocab())
    sampling, limit = options.sampling(body.get("options"), llm)
    thinking, more = _thinking(llm, body), {**_answer(body), "model": body.get("model")}
    if (raw := checks.switch("raw", body.get("raw"))) and (system or context):
        raise GGUFError("raw leaves the prompt as it is: leave out system and context, or write them into the prompt")
    if suffix and (raw or system or context):
        raise GGUFError("suffix asks for what comes between two texts: leave out raw, system and context")
    if raw or suffix or (llm.chat_template is None and not system):
        top = more.pop("top_logprobs", None)
        more["logprobs"] = (top or 0) if more.pop("logprobs", None) else None
        made = asked.text_request(llm, prompt, limit, {**sampling, **more, "suffix": suffix or None})
    else:
        said = [{"role": "system", "content": system}] if system else []
        said.append({"role": "user", "content": prompt})
        made = asked.chat_request(llm, said, limit, {**sampling, **thinking, **more})
    return _behind(llm, context, made) if context else made


def is_told_context(body: Mapping[str, Any]) -> bool:
    """Whether an answer of /api/generate has the tokens that a later request may go on from."""
    return not body.get("raw") and not body.get("suffix")


def _behind(llm: Chatting, context: list[int], made: Asked) -> Asked:
    """A prompt behind the tokens of an earlier answer. What is said is not kept by its text, which is another one."""
    rest = made.tokens[1:] if made.tokens[:1] == (llm.tokenizer.bos,) else made.tokens
    tokens = (*context, *rest)
    llm.check_prompt(tokens)
    return replace(made, tokens=tokens, chat=None)


def _answer(body: Mapping[str, Any]) -> Record:
    """What the answer is to look like."""
    wanted = checks.switch("logprobs", body.get("logprobs"))
    top = body.get("top_logprobs")
    top = 0 if top is None else checks.whole("top_logprobs", top)
    if not 0 <= top <= MOST_TOP:
        raise GGUFError(f"top_logprobs must be between 0 and {MOST_TOP}, and is {top}")
    if top and not wanted:
        raise GGUFError("top_logprobs needs logprobs: true")
    return {**_format(body.get("format")), "logprobs": wanted or None, "top_logprobs": top if wanted else None}


def _format(given: object) -> Record:
    """ollama's format as arguments of a chat completion."""
    if given is None or given == "":
        return {}
    if given == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(given, Mapping):
        from ggufpy.grammar import Grammar

        return {"grammar": Grammar.from_json_schema(given, "format")}
    raise GGUFError(f'format is {checks.shown(given)}; expected "json" or a JSON schema (an object)')


def _thinking(llm: Chatting, body: Mapping[str, Any]) -> Record:
    """Variables of the chat template: models that can think do so unless they are told not to, as with ollama."""
    think = body.get("think")
    if isinstance(think, str) and think not in LEVELS:
        raise GGUFError(f'think is {checks.shown(think)}; it must be true, false, "low", "medium" or "high"')
    if not isinstance(think, str):
        checks.switch("think", think)
    if not abilities.thinks(llm.metadata):
        if think:
            raise GGUFError(f"{checks.shown(body.get('model'))} does not support thinking: leave out think")
        return {}
    on = think is None or think is not False
    made: Record = {"chat_template_kwargs": {"enable_thinking": on, "thinking": on}}
    return {**made, "reasoning_effort": think} if isinstance(think, str) else made


def _some(body: Mapping[str, Any], name: str) -> Any:
    """A list that says something, else None."""
    return body.get(name) if body.get(name) != [] else None
