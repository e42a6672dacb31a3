"""Messages that clients send, and templates that take them in one form only."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from chat_renderer import render

from ggufpy.chat import ChatTemplate, template
from ggufpy.errors import GGUFError

ADD = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
PRINT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}({{ p.text }})"
    "{% endif %}{% endfor %}{% endfor %}"
)
FIRST_PART = "{% for m in messages %}<{{ m.role }}>({{ m.content[0]['text'] }}){% endfor %}"
BOTH = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}"
)
# parts from the user only, and text from all others
PARTS_OF_USER = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' %}{% for p in m.content %}({{ p.text }})"
    "{% endfor %}{% else %}{{ m.content + '' }}{% endif %}{% endfor %}"
)
DUMPED = "{% for m in messages %}{{ m.content | tojson }}{# no text #}{% endfor %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.content }}]{% endfor %}"
)
REFUSE = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
REFUSE += "<{{ m.role }}>{{ m.content }}{% endfor %}"
DROP = "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
FIRST_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('at the beginning') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
# the system's message goes into the user's, as in Llama 2's template
FOLD = (
    "{% if messages[0].role == 'system' %}{% set system, rest = messages[0].content, messages[1:] %}"
    "{% else %}{% set system, rest = '', messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "[{{ '{' + system + '}' if loop.first and system else '' }}{{ m.content }}]{% endfor %}"
)
DEVELOPER = "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"

CALLS = "{% for m in messages %}{% for c in m.tool_calls or [] %}@{% else %}{{ m.content }};{% endfor %}{% endfor %}"
ITEMS = CALLS.replace("@", "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }},{% endfor %}")
JSON = CALLS.replace("@", "{{ c.function.arguments | tojson }}")
TEXT = CALLS.replace("@", "{{ c.function.name + c.function.arguments }}")
SHOWN = CALLS.replace("@", "{{ c.function.arguments }}")
EITHER = CALLS.replace(
    "@", "{% set a = c.function.arguments %}{% if a is string %}'{{ a }}'{% else %}{{ a | tojson }}{% endif %}"
)
# DeepSeek R1's shows calls beside no content at all, and only those
NONE_ONLY = (
    "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}"
    "{% else %}{{ m.content }};{% endif %}{% endfor %}"
)
WITH_TOOLS = (
    "{% for t in tools %}{{ t.function.name }};{% endfor %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
IGNORED = "{% for m in messages %}{{ m.content }};{% endfor %}"


def user(text: Any = "hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: Any = "S") -> dict[str, Any]:
    return {"role": "system", "content": text}


def texts(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def call(arguments: Any, **fields: Any) -> list[dict[str, Any]]:
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "1", "type": "function", "function": function}]
    assistant = {"role": "assistant", "content": None, "tool_calls": calls} | fields
    return [user(), assistant, {"role": "tool", "tool_call_id": "1", "content": "ok"}]


@pytest.mark.parametrize(
    ("source", "content", "right"),
    [
        (ADD, texts("hi", "there"), "<user>hi\nthere"),
        (PRINT, texts("hi", "there"), "<user>hi\nthere"),
        (PRINT, tuple(texts("hi")), "<user>hi"),
        (PRINT, [], "<user>"),
        (PRINT, None, "<user>"),
        (PRINT + "{# text #}", texts("hi", "there"), "<user>hi\nthere"),
        (ADD + "{# text #}", texts("hi", "there"), "<user>hi\nthere"),
        (PARTS, "hi", "<user>(hi)"),
        (PARTS, None, "<user>()"),
        (PARTS, texts("hi", "there"), "<user>(hi)(there)"),
        (FIRST_PART, "hi", "<user>(hi)"),
        (FIRST_PART, texts("hi", "there"), "<user>(hi\nthere)"),
        (BOTH, "hi", "<user>hi"),
        (BOTH, texts("hi", "there"), "<user>(hi)(there)"),
        (DUMPED, texts("hi", "there"), '"hi\\nthere"'),
    ],
)
def test_contents(source: str, content: Any, right: str) -> None:
    assert render(source, [user(content)]) == right


def test_each_role_has_its_own_form() -> None:
    chat = [user("a"), {"role": "assistant", "content": texts("b", "c")}, user(texts("d", "e"))]
    assert render(PARTS_OF_USER, [system(texts("s")), *chat]) == "<system>s<user>(a)<assistant>b\nc<user>(d)(e)"
    assert render(PARTS, [{"role": "critic", "content": "hi"}]) == "<critic>(hi)"
    no_calls = "{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('no calls') }}{% endif %}{% endfor %}"
    assert render(no_calls + PARTS, [user(), {"role": "tool", "content": "ok"}]) == "<user>(hi)<tool>(ok)"


def test_messages_of_the_caller_stay_as_they_are() -> None:
    messages = [system(), user(texts("hi")), *call('{"a": 1}')[1:]]
    before = json.dumps(messages)
    for source in (ADD, PARTS, ITEMS, ALTERNATE):
        ChatTemplate(source).render(messages[:2])
    ChatTemplate(ITEMS).render(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("source", "arguments", "right"),
    [
        (ITEMS, '{"city": "Paris"}', "hi;city=Paris,ok;"),
        (ITEMS, {"city": "Paris"}, "hi;city=Paris,ok;"),
        (ITEMS, "", "hi;ok;"),
        (ITEMS, None, "hi;ok;"),
        (JSON, '{"city":"Zürich"}', 'hi;{"city": "Zürich"}ok;'),
        (JSON, {"city": "Zürich"}, 'hi;{"city": "Zürich"}ok;'),
        (TEXT, '{"city":"Zürich"}', 'hi;f{"city":"Zürich"}ok;'),
        (TEXT, {"city": "Zürich"}, 'hi;f{"city": "Zürich"}ok;'),
        (TEXT, None, "hi;f{}ok;"),
        (TEXT, "no JSON", "hi;fno JSONok;"),
        (SHOWN, {"city": "Paris"}, 'hi;{"city": "Paris"}ok;'),
        (SHOWN, '{"city": "Paris"}', 'hi;{"city": "Paris"}ok;'),
        (EITHER, '{"city":"Paris"}', 'hi;{"city": "Paris"}ok;'),
        (EITHER, "no JSON", "hi;'no JSON'ok;"),
        (NONE_ONLY, {"city": "Paris"}, 'hi;{"city": "Paris"}ok;'),
        (IGNORED, "no JSON", "hi;;ok;"),
        (IGNORED, {"city": "Paris"}, "hi;;ok;"),
    ],
)
def test_arguments(source: str, arguments: Any, right: str) -> None:
    assert render(source, call(arguments)) == right


def test_calls_of_a_template_that_wants_tools() -> None:
    tools = [{"function": {"name": "f"}}]
    assert render(WITH_TOOLS, call('{"a": 1}'), tools=tools) == 'f;{"a": 1}'


def test_a_bare_call() -> None:
    messages = call({})
    messages[1]["tool_calls"] = [{"name": "f", "arguments": '{"a": 1}'}]
    assert render(JSON, messages) == 'hi;{"a": 1}ok;'
    assert render(CALLS.replace("@", "{{ c.type }}{{ c.name is defined }}"), messages) == "hi;functionFalseok;"


def test_calls_of_a_template_that_wants_a_user_at_the_end() -> None:
    source = "{% if messages[-1].role != 'user' %}{{ raise_exception('the last must be a user') }}{% endif %}" + ITEMS
    assert render(source, [*call('{"a": 1}'), user("ho")]) == "hi;a=1,ok;ho;"


@pytest.mark.parametrize("source", [ADD, PRINT, PARTS, FIRST_PART])
@pytest.mark.parametrize("content", [None, "", []])
def test_no_content_beside_calls(source: str, content: Any) -> None:
    text = render(source, call("{}", content=content))
    assert text.replace("(", "").replace(")", "") == "<user>hi<assistant><tool>ok"


def test_content_that_is_missing_beside_calls() -> None:
    messages = call("{}")
    del messages[1]["content"]
    assert render(ADD, messages) == "<user>hi<assistant><tool>ok"


def test_templates_that_ask_for_none_get_it() -> None:
    asks = CALLS.replace("@", "{{ 'none' if m.content is none else '[' + m.content + ']' }}{{ c.function.arguments }}")
    assert render(asks, call("{}")) == "hi;none{}ok;"
    assert render(asks, call("{}", content="")) == "hi;[]{}ok;"
    for content in ("", []):
        assert render(NONE_ONLY, call("{}", content=content)) == "hi;{}ok;"
    printed = CALLS.replace("@", "{{ m.content | tojson }}{{ c.function.arguments }}")
    assert render(printed, call("{}")) == 'hi;""{}ok;'


def test_null_fields_are_as_if_left_out() -> None:
    source = "{% for m in messages %}{{ m.content }}{{ m.name is defined }}{{ 'tool_calls' in m }}{% endfor %}"
    messages = [user() | {"name": None, "tool_calls": None, "refusal": None}, user() | {"tool_calls": []}]
    assert render(source, messages) == "hiFalseFalse" * 2


A = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    ("source", "messages", "right"),
    [
        (ALTERNATE, [system(), user()], "[S\nhi]"),
        (REFUSE, [system(), user()], "<user>S\nhi"),
        (DROP, [system(), user()], "<user>S\nhi"),
        (ADD, [system(), user()], "<system>S<user>hi"),
        (ALTERNATE, [system(texts("S", "T")), user(texts("hi", "there"))], "[S\nT\nhi\nthere]"),
        (ALTERNATE, [system("S"), system("T"), user()], "[S\nT\nhi]"),
        (ALTERNATE, [system(""), user()], "[hi]"),
        (ALTERNATE, [system(), user("")], "[S]"),
        (ALTERNATE, [system()], "[S]"),
        (ALTERNATE, [user(), system()], "[hi\nS]"),
        (ALTERNATE, [user(), A, system()], "[hi][yes][S]"),
        (ALTERNATE, [user(), A, system(), user("ho")], "[hi][yes][S\nho]"),
        (ALTERNATE, [user(), system(), A, user("ho")], "[hi\nS][yes][ho]"),
        (ALTERNATE, [user(), system(), user("ho"), A], "[hi\nS\nho][yes]"),
        (REFUSE, [user(), system(), user("ho"), A], "<user>hi<user>S\nho<assistant>yes"),
        (ALTERNATE, [system(), A, user()], "[S][yes][hi]"),
        (ADD, [system("S"), system("T"), user(), system("U")], "<system>S<system>T<user>hi<system>U"),
        (FIRST_ONLY, [system("S"), system("T"), user()], "<system>S\nT<user>hi"),
        (FIRST_ONLY, [system(), user(), system("T")], "<system>S<user>hi\nT"),
        (FIRST_ONLY, [user(), A, system(), user("ho")], "<user>hi<assistant>yes<user>S\nho"),
        (FIRST_ONLY, [system()], "<system>S"),
        (FOLD, [system(), user(), A, system("T"), user("ho")], "[{S}hi][yes][T\nho]"),
        (FOLD, [system()], "[S]"),
        (PARTS + "{% if messages[0].role == 'system' %}{{ raise_exception('') }}{% endif %}", [system(), user()],
         "<user>(S\nhi)"),
        (ALTERNATE, [user(), user("ho"), A, A, user()], "[hi\nho][yes\nyes][hi]"),
        (ALTERNATE, [user(texts("hi")), user(texts("ho", "he"))], "[hi\nho\nhe]"),
        (ADD, [user(), user("ho"), A, A], "<user>hi<user>ho<assistant>yes<assistant>yes"),
        (ADD, [{"role": "developer", "content": "S"}, user()], "<system>S<user>hi"),
        (ALTERNATE, [{"role": "developer", "content": "S"}, user()], "[S\nhi]"),
        (DEVELOPER, [{"role": "developer", "content": "S"}, user()], "D<developer>S<user>hi"),
    ],
)  # fmt: skip
def test_roles(source: str, messages: Any, right: str) -> None:
    assert render(source, messages) == right


def test_a_template_that_refuses_all_says_so_itself() -> None:
    with pytest.raises(GGUFError, match="never"):
        render("{{ raise_exception('never') }}", [system(), user(texts("text")), *call("{}")])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages must be a list of .*, not str"),
        ({"role": "user"}, "messages must be a list of .*, not dict"),
        (5, "messages must be a list of .*, not int"),
        ([], "messages is empty"),
        (["hello"], r"messages\[0\] must be a mapping with 'role' and 'content', not str"),
        ([user(), {"content": "x"}], r"messages\[1\]\.role is missing"),
        ([{"role": 1, "content": "x"}], r"messages\[0\]\.role is int"),
        ([{"role": None, "content": "x"}], r"messages\[0\]\.role is null"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing"),
        ([{"role": "assistant", "tool_calls": []}], r"messages\[0\]\.content is missing"),
        ([user(5)], r"messages\[0\]\.content must be a text or a list of parts, not int"),
        ([user(), user({"a": 1})], r"messages\[1\]\.content must be .*, not dict"),
        ([user(["hi"])], r"messages\[0\]\.content\[0\] must be a part such as .*, not str"),
        ([user([{"text": "x"}])], r"messages\[0\]\.content\[0\]\.type must be \"text\", not null"),
        ([user([{"type": "text"}])], r"messages\[0\]\.content\[0\]\.text must be a text, not null"),
        (
            [user([*texts("x"), {"type": "image_url", "image_url": {"url": "x"}}])],
            r"messages\[0\]\.content\[1\] is of type 'image_url'",
        ),
        ([user([{"type": "input_audio", "text": "x"}])], "'input_audio'"),
        ([user() | {"tool_calls": {"a": 1}}], r"messages\[0\]\.tool_calls must be a list of calls, not dict"),
        ([user() | {"tool_calls": "f()"}], r"messages\[0\]\.tool_calls must be a list of calls, not str"),
        ([user() | {"tool_calls": ["f"]}], r"messages\[0\]\.tool_calls\[0\] must be a call such as .*, not str"),
        ([user() | {"tool_calls": [{}]}], r"messages\[0\]\.tool_calls\[0\]\.name must be .*, not null"),
        ([user() | {"tool_calls": [{"function": 1}]}], r"tool_calls\[0\]\.function must be .*, not int"),
        ([user() | {"tool_calls": [{"function": {"name": 1}}]}], r"\[0\]\.function\.name must be .*, not int"),
        (call([1]), r"messages\[1\]\.tool_calls\[0\]\.function\.arguments must be an object or .*, not list"),
        (call('{"a":'), r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is no JSON \(.*: the chat"),
        (call("[1]"), r"arguments is the JSON of list: the chat template needs the JSON of an object"),
        (call("null"), r"arguments is the JSON of null"),
        (call("[" * 100_000), r"arguments is no JSON"),
    ],
)
@pytest.mark.parametrize("source", [ITEMS, PARTS + ITEMS])
def test_messages_of_another_form(source: str, messages: Any, message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        render(source, messages)
    assert "\n" not in str(caught.value)


def test_arguments_that_no_json_holds() -> None:
    with pytest.raises(GGUFError, match=r"messages\[1\]\.tool_calls\[0\]\.function\.arguments cannot be written"):
        render(TEXT, call({"a": {1, 2}}))


class Counted(ChatTemplate):
    """A template that counts what is tried with it."""

    tried = 0

    def _try(self, messages: Any, tools: Any) -> str:
        self.tried += 1
        return super()._try(messages, tools)


def test_a_template_is_probed_only_when_messages_need_it_and_once() -> None:
    chat = Counted(ADD)
    for content in ("hi", texts("hi", "there"), None):
        chat.render([user(content), {"role": "assistant", "content": content}])
    assert chat.tried == 0
    counts = []
    for messages in ([system(), user()], [system(), system(), user()], call("{}"), call({})):
        for _ in range(2):
            chat.render(messages)
            counts.append(chat.tried)
    assert counts[:4] == [1, 1, 2, 2]
    assert counts[4] > 2
    assert counts[5:] == [counts[4]] * 3


def test_threads_share_what_is_found() -> None:
    chat, results = Counted(ALTERNATE), []
    threads = [threading.Thread(target=lambda: results.append(chat.render([system(), user()]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["[S\nhi]"] * 8
    assert chat.tried == 2


@pytest.mark.parametrize(
    "loop",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
    ],
)
def test_probes_stop_at_the_first_limit(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.5)
    chat = Counted("{% set text = 1 %}" + loop)
    with pytest.raises(GGUFError, match="cannot render these messages: it "):
        chat.render([system(texts("hi")), *call('{"a": 1}')])
    assert chat.tried == 1


def test_probes_and_the_rendering_share_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Counted("{{ raise_exception('text') }}")
    monkeypatch.setattr(chat, "_seconds", 1e-9)
    with pytest.raises(GGUFError, match="takes longer than"):
        chat.render([system(texts("hi")), *call('{"a": 1}')])
    assert chat.tried <= 2
