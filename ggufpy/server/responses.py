"""A request for a response, from its body to what is generated: nothing here knows of HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ggufpy.api.openai import asked as asking
from ggufpy.api.openai.asked import Asked
from ggufpy.api.openai.bodies import LEAST_EFFORT
from ggufpy.api.responses import items as conversing
from ggufpy.api.responses.fields import LOGPROBS, SAMPLERS, SEALED, checked
from ggufpy.api.responses.output import Telling
from ggufpy.api.responses.shape import ResponseShape
from ggufpy.api.responses.tools import Toolbox, echoed, toolbox
from ggufpy.errors import GGUFError
from ggufpy.server.fields import refusing
from ggufpy.server.work import Prepared
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.llm import Llama
    from ggufpy.server.responses_store import Link, Responses

Record = dict[str, Any]

_MESSAGE = re.compile(r"messages\[(\d+)\]\.?(.*)")  # what the error of a message begins with
EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}  # those that templates do not know
OTHERS = ("stop", "chat_template_kwargs")  # options of a text beside those of samplers
ROOM = 8  # a part of the context that is left for an answer whose length is not said, where turns are left out


def prepare(kept: Responses, owner: str, llm: Llama, body: Record) -> Prepared:
    """What a response is asked for. Raises Problem 400 for what cannot be, 404 for what is not `kept`."""
    with refusing("input"):
        fields = checked(body)
        call = _Call(kept, owner, llm, fields)
        made, left_out = call.asked()
    head = {**call.head(made), **({"left_out_items": left_out} if left_out else {})}
    shape = ResponseShape(llm, head, call.telling, call.keep, LOGPROBS in fields.get("include", ()))
    return Prepared(made, shape, fields.get("stream", False))


def count(kept: Responses, owner: str, llm: Llama, body: Record) -> Record:
    """How many tokens a request's prompt has. Raises Problem as `prepare` does."""
    with refusing("input"):
        made, _ = _Call(kept, owner, llm, checked(body)).asked()
    return {"object": "response.input_tokens", "input_tokens": len(made.tokens)}


class _Call:
    """One request, whose fields are checked."""

    def __init__(self, kept: Responses, owner: str, llm: Llama, fields: Record) -> None:
        self._kept, self._owner, self._llm, self._fields = kept, owner, llm, fields
        self._before = self._previous()
        self._history = self._before.all() if self._before else []
        self._given = self._items()
        self._tools = self._toolbox()

    @property
    def telling(self) -> Telling:
        """How the answer is told."""
        reasoning = self._fields.get("reasoning", {})
        summary = "summary" in reasoning or "generate_summary" in reasoning
        return Telling(self._tools, summary, SEALED in self._fields.get("include", ()))

    def asked(self) -> tuple[Asked, int]:
        """What is generated, and how many items were left out for it to fit: none unless `truncation` is "auto"."""
        items = [*self._history, *self._given]
        try:
            whole = self._asked(items)
            if self._fields.get("truncation") != "auto" or self._fits(whole):
                return whole, 0
        except GGUFError as error:
            if self._fields.get("truncation") != "auto" or "the context holds" not in str(error):
                raise
        return self._shortened(items)

    def keep(self, record: Record) -> None:
        """Keeps what has come, unless the client wants none of it kept."""
        if record["store"]:
            self._kept.keep(self._owner, record, self._before, self._given)

    def head(self, made: Asked) -> Record:
        """What every record of the response has."""
        given, sampling = self._fields.get, made.samplings[0]
        reasoning = given("reasoning", {})
        tools = echoed(given("tools", ()))
        return {
            "id": conversing.new_id("resp"), "object": "response", "created_at": int(time.time()),
            "status": "in_progress", "background": False, "completed_at": None, "error": None,
            "incomplete_details": None, "instructions": given("instructions"),
            "max_output_tokens": given("max_output_tokens"), "max_tool_calls": given("max_tool_calls"),
            "model": made.model, "output": [], "parallel_tool_calls": given("parallel_tool_calls", True),
            "previous_response_id": given("previous_response_id"), "prompt_cache_key": given("prompt_cache_key"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "safety_identifier": given("safety_identifier"), "service_tier": "default", "store": given("store", True),
            "temperature": sampling.temp,
            "text": {"format": {"type": "text"}, "verbosity": "medium", **given("text", {})},
            "tool_choice": given("tool_choice", "auto"), "tools": tools, "top_logprobs": given("top_logprobs", 0),
            "top_p": sampling.top_p, "truncation": given("truncation", "disabled"), "usage": None,
            "user": given("user"), "metadata": given("metadata", {}),
        }  # fmt: skip

    def _previous(self) -> Link | None:
        name = self._fields.get("previous_response_id")
        return None if name is None else self._kept.find(self._owner, name, "previous_response_id").whole

    def _items(self) -> list[Record]:
        """The items of the input; those that it only names are looked up."""
        made = []
        for item in conversing.itemized(self._fields["input"]):
            named = item["type"] == "item_reference"
            made.append(self._kept.item(self._owner, item["id"]) if named else item)
        if not made:
            raise GGUFError("input is empty: give a text or at least one item")
        return made

    def _toolbox(self) -> Toolbox:
        """The tools of the request, and those that a client adds within the conversation."""
        fields = self._fields
        made = [] if fields.get("tools") is None else checks.items("tools", fields["tools"], "a list of tools")
        for i, item in enumerate(self._given):
            if item["type"] == "additional_tools":
                made += checks.items(f"input[{i}].tools", item.get("tools"), "a list of tools")
        return toolbox(made, fields.get("tool_choice"))

    def _asked(self, items: Sequence[Mapping[str, Any]]) -> Asked:
        fields = self._fields
        options: Record = {name: fields[name] for name in (*SAMPLERS, *OTHERS) if name in fields}
        options |= _effort(fields.get("reasoning", {}), options.get("chat_template_kwargs"))
        if LOGPROBS in fields.get("include", ()):
            options |= {"logprobs": True, "top_logprobs": fields.get("top_logprobs", 0)}
        if self._tools.functions:
            options |= {"tools": list(self._tools.functions), "parallel_tool_calls": fields.get("parallel_tool_calls")}
        if self._tools.choice is not None:
            options["tool_choice"] = self._tools.choice
        if "format" in fields.get("text", {}):
            options |= _answer_form(fields["text"]["format"])
        options["model"] = fields.get("model")
        told = conversing.told(items, fields.get("instructions"), len(self._history))
        if not told.messages:
            raise GGUFError("input says nothing that the model could be shown")
        try:
            return asking.chat_request(self._llm, told.messages, fields.get("max_output_tokens"), options)
        except GGUFError as error:
            if (found := _MESSAGE.match(str(error))) is None:
                raise
            raise GGUFError(f"{told.places[int(found[1])]}: {found[2]}") from error  # clients know items

    def _fits(self, made: Asked) -> bool:
        """Whether an answer has room behind the prompt."""
        context = self._llm.n_ctx()
        room = min(self._fields.get("max_output_tokens") or context // ROOM, context // 2)
        return len(made.tokens) + room <= context

    def _shortened(self, items: list[Record]) -> tuple[Asked, int]:
        """The request without as many of the oldest turns as it takes to fit, found by halves. What the system and the
        developer say stays, as does the last turn. Raises GGUFError where that alone does not fit."""
        starts = _turns(items)
        low, high = 0, max(len(starts) - 1, 0)  # turns to leave out: too few, and enough if anything is
        best = self._asked(_without(items, starts, high))
        while high - low > 1:
            middle = (low + high) // 2
            made = self._tried(_without(items, starts, middle))
            if made is None:
                low = middle
            else:
                high, best = middle, made
        return best, len(items) - len(_without(items, starts, high))

    def _tried(self, items: list[Record]) -> Asked | None:
        try:
            made = self._asked(items)
        except GGUFError as error:
            if "the context holds" not in str(error):
                raise
            return None
        return made if self._fits(made) else None


def _turns(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where turns begin: with what a user says first after something else."""
    starts, before = [], False
    for i, item in enumerate(items):
        user = item["type"] == "message" and item.get("role") == "user"
        if user and not before:
            starts.append(i)
        before = user
    return starts


def _without(items: list[Record], starts: list[int], count: int) -> list[Record]:
    """The items without the first `count` turns, and without what is before the first of them."""
    if not count:
        return items
    cut = starts[count]
    stays = ("system", "developer")
    return [item for i, item in enumerate(items) if i >= cut or item.get("role") in stays]


def _effort(reasoning: Mapping[str, Any], variables: Any) -> Record:
    """How much is to be thought, in the words of templates, as chat completions have it (`api/openai/bodies.py`)."""
    effort = reasoning.get("effort")
    if effort is None:
        return {}
    made: Record = {"reasoning_effort": EFFORTS.get(effort, effort)}
    if effort in LEAST_EFFORT:
        off = {"enable_thinking": False, "thinking": False}
        made["chat_template_kwargs"] = {**off, **(variables or {})}
    return made


def _answer_form(given: Mapping[str, Any]) -> Record:
    """text.format as arguments of a chat completion."""
    if given["type"] != "json_schema":
        return {"response_format": {"type": given["type"]}}
    from ggufpy.grammar import Grammar

    return {"grammar": Grammar.from_json_schema(given["schema"], "text.format.schema")}


Preparing = Callable[["Llama", Record], Prepared]


def preparing(kept: Responses, owner: str) -> Preparing:
    """`prepare` for one owner."""
    return partial(prepare, kept, owner)
