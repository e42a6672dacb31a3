"""What a chat template takes, found by rendering small chats through it.

A question is asked when messages first need its answer, and once. A rendering that fails says "not this". When
neither form of a thing shows in what is written there is nothing to tell, and the messages stay as they are.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from threading import RLock
from typing import Any, Literal, TypeVar

from ggufpy.chat.limits import TemplateFailure, TooMuch
from ggufpy.support.records import dataclass

Message = dict[str, Any]
Render = Callable[[list[Message], Any], str]  # messages and tools to text; raises TemplateFailure
Form = Literal["text", "part", "parts"]  # a text, a list of one part, a list of any number
T = TypeVar("T")

_WORD = "quince"  # each message's text is this and its number: nothing that a template would look for
_NAME = "pick"
_ARGUMENTS = {"orchard": "medlar"}
_ARGUMENTS_TEXT = json.dumps(_ARGUMENTS)
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "picks",
        "parameters": {"type": "object", "properties": {"orchard": {"type": "string", "description": "where"}}},
    },
}
_CALL_ID = "call00001"  # Mistral's templates want nine letters and digits
_IDS = {"odd": "call_0123456789abcdefghijklmn", "none": None}
_QUOTED_PART = re.compile(rf"""['"]text['"]: ?['"]{_WORD}""")
_NULL = re.compile(r"None|null")

# chats that show a role, and places of system messages; "call" is an assistant's call of a tool
_CHATS = {
    "system": ("system", "user"),
    "user": ("user",),
    "assistant": ("user", "assistant", "user"),
    "tool": ("user", "call", "tool"),
}
_PLACES = {
    "first": ("system", "user"),
    "several": ("system", "system", "user"),
    "later": ("system", "user", "assistant", "system", "user"),
    "alone": ("system",),
}
_ROWS = {"user": ("user", "user"), "assistant": ("user", "assistant", "assistant", "user")}


@dataclass(frozen=True)
class Calls:
    """How an assistant's calls may come: `contents` beside them (None, ""), arguments as text, as objects."""

    contents: frozenset[str | None]
    text: bool
    objects: bool


class Probe:
    """The answers for one template. Safe to share between threads."""

    def __init__(self, source: str, render: Render) -> None:
        """`render` writes a chat as it stands, within the limits of any rendering."""
        self._render = render
        self._names_parts = re.search(r"\btext\b", source) is not None
        self._names_developer = re.search(r"\bdeveloper\b", source) is not None
        self._answers: dict[Hashable, Any] = {}
        self._lock = RLock()

    def form(self, role: str, parts: bool) -> Form:
        """The form that a content of `role` must have, where one was given as a text or as `parts`.

        What was given stays if the template takes it. One that never names the `text` of a part has no use for
        parts, and nothing is rendered to find out.
        """
        if not self._names_parts:
            return "text"
        role = role if role in _CHATS else "user"
        forms: tuple[Form, ...] = ("parts", "text", "part") if parts else ("text", "part")
        for form in forms:
            if self._shows_content(role, form):
                return form
        return "text" if role == "user" else self.form("user", parts)

    def takes_system(self, place: str) -> bool:
        """Whether system messages are shown "first", "several" in a row, "later" in a chat, "alone" (no user).

        False only if the chat without them is shown: a template that refuses that as well refuses something else.
        """
        return self._once(("system", place), lambda: self._ask_system(_PLACES[place]))

    def takes_in_a_row(self, role: str) -> bool:
        """Whether two messages of a "user", or of an "assistant", are shown without another's between them."""
        return self._once((role, "row"), lambda: self._shows_all(_ROWS[role]))

    def knows_developer(self) -> bool:
        """Whether the template names the role and shows it; many print any role, which the model never saw."""
        chat = ("developer", "user")
        return self._names_developer and self._once("developer", lambda: self._shows(self._chat(chat, {}), (0,)))

    def takes_id(self, kind: str) -> bool:
        """Whether calls and answers are shown with ids of a kind: "odd" (as OpenAI's are), "none".

        False only if they are shown with one of nine letters and digits.
        """
        return self._once((kind, "id"), lambda: self._ask_id(_IDS[kind]))

    def calls(self) -> Calls:
        """How calls of tools may come."""
        return self._once("calls", self._ask_calls)

    def _once(self, question: Hashable, ask: Callable[[], T]) -> T:
        with self._lock:
            if question not in self._answers:
                self._answers[question] = ask()
            answer: T = self._answers[question]
            return answer

    def _shows_content(self, role: str, form: Form) -> bool:
        def ask() -> bool:
            roles = _CHATS[role]
            return self._shows(self._chat(roles, {role: form}), _places(role, roles))

        return self._once((role, form), ask)

    def _ask_system(self, roles: tuple[str, ...]) -> bool:
        forms = {"system": self.form("system", False)}
        others = tuple(role for role in roles if role != "system") or ("user",)
        if self._shows(self._chat(roles, forms), _places("system", roles)):
            return True
        return not self._shows_all(others)

    def _ask_id(self, one: str | None) -> bool:
        chat = self._chat(("user", "call", "tool"), {})
        other = copy.deepcopy(chat)
        for part, key in ((other[1]["tool_calls"][0], "id"), (other[2], "tool_call_id")):
            del part[key]
            part |= {} if one is None else {key: one}
        return self._written(other, None) is not None or self._written(chat, None) is None

    def _ask_calls(self) -> Calls:
        """Tries a chat that ends with a tool's answer, then a longer one, then both with a tool on offer."""
        answers = []
        for tools in (None, [_TOOL]):
            for rest in ((), ("assistant", "user")):
                answers.append(self._ask_calls_in(("user", "assistant", "tool", *rest), tools))
                if answers[-1].text or answers[-1].objects:
                    return answers[-1]
        return answers[0]

    def _ask_calls_in(self, roles: tuple[str, ...], tools: Any) -> Calls:
        """Renders every pair of a content and a form of arguments in the second message of a chat."""
        rendered, shown = set(), set()
        for objects in (False, True):
            nulls = 0  # in the text with a content of ""
            for content in ("", None):
                chat = self._chat(roles, {})
                chat[1] = _call(content, objects, self.form("user", False))
                text = self._written(chat, tools)
                if text is None or (content is None and len(_NULL.findall(text)) > nulls):
                    continue
                nulls = len(_NULL.findall(text))
                rendered.add(content)
                if _shows_arguments(text, objects):
                    shown.add((content, objects))
        forms = {objects for _, objects in shown}
        plain = {""} if "" in rendered or not rendered else rendered
        contents = {content for content, _ in shown} or plain
        return Calls(frozenset(contents), False in forms, True in forms)

    def _chat(self, roles: tuple[str, ...], forms: Mapping[str, Form]) -> list[Message]:
        """A message of each role, in the form that `forms` says, else in that of a user's text."""
        return [
            self._message(i, role, forms[role] if role in forms else self.form("user", False))
            for i, role in enumerate(roles)
        ]

    def _message(self, number: int, role: str, form: Form) -> Message:
        if role == "call":
            calls = self.calls()
            return _call("" if "" in calls.contents else None, not calls.text, form)
        answer = {"tool_call_id": _CALL_ID, "name": _NAME} if role == "tool" else {}
        return {"role": role, "content": _content(_texts(number), form), **answer}

    def _shows_all(self, roles: tuple[str, ...]) -> bool:
        return self._shows(self._chat(roles, {}), range(len(roles)))

    def _shows(self, chat: list[Message], places: Iterable[int]) -> bool:
        """Whether the text of the messages at `places` is written, and not the parts it came in."""
        text = self._written(chat, None)
        if text is None or _QUOTED_PART.search(text):
            return False
        return all(word in text for place in places for word in _texts(place))

    def _written(self, chat: list[Message], tools: Any) -> str | None:
        """What the template makes of a chat; None if it refuses it. Raises TooMuch when it meets a limit: what such a
        template takes cannot be found out, and no chat that it renders would be right."""
        try:
            return self._render(chat, tools)
        except TooMuch:
            raise
        except TemplateFailure:
            return None


def _texts(number: int) -> tuple[str, str]:
    """Two words that only the message of this number holds."""
    return f"{_WORD}{number}a", f"{_WORD}{number}b"


def _places(role: str, roles: tuple[str, ...]) -> list[int]:
    return [i for i, other in enumerate(roles) if other == role]


def _content(texts: tuple[str, ...], form: Form) -> str | list[Message]:
    if form == "text":
        return " ".join(texts)
    return [{"type": "text", "text": text} for text in (texts if form == "parts" else (" ".join(texts),))]


def _call(content: str | None, objects: bool, form: Form) -> Message:
    function = {"name": _NAME, "arguments": dict(_ARGUMENTS) if objects else _ARGUMENTS_TEXT}
    return {
        "role": "assistant",
        "content": None if content is None else _content((content,), form),
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def _shows_arguments(text: str, objects: bool) -> bool:
    """Whether arguments are written as data, not as Python's `repr` nor as a text within JSON."""
    if not objects:
        return _ARGUMENTS_TEXT in text
    words = [word for pair in _ARGUMENTS.items() for word in pair]
    return repr(_ARGUMENTS) not in text and all(word in text for word in words)
