"""Calls and thoughts: what templates write is read back, whatever pieces it comes in."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from chat_syntax_templates import NAMES, TEMPLATES, TOOLS, USER, call, joined, parsed, template, values, written
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.chat import ChatTemplate
from ggufpy.chat.syntax import Arguments, Call, Content, Thought, choice, shown, syntax_of
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import learned
from ggufpy.chat.syntax.shown import Shown

SYNTAXES = {name: syntax_of(template(name)) for name in TEMPLATES}
PROMPTS = {name: template(name).render([USER], tools=TOOLS) for name in TEMPLATES}
WRITE_CALLS = [name for name in TEMPLATES if name != "granite"]  # its template writes none
WRITE_THOUGHTS = ["hermes", "qwen_tags", "gemma", "glm", "harmony", "mistral_named", "own_tags"]
ONE_CALL = ("llama3", "harmony")  # or a content: their templates write no more
ARGUMENTS = {"city": 'Pa{r}is, "é"', "count": 3, "flag": True, "tags": ["x]", "</y>"]}


def pieces_of(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(1, len(text) + 2)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def check(name: str, message: dict[str, Any], content: str, thought: str = "") -> None:
    prompt, text = written(template(name), message)
    wanted = [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", [])]
    whole = joined(parsed(SYNTAXES[name], [text], prompt))
    assert (whole[0], whole[1], values(whole[2])) == (content, thought, wanted), text
    for pieces in (list(text), *(pieces_of(text, seed) for seed in range(10))):
        assert joined(parsed(SYNTAXES[name], pieces, prompt)) == whole, pieces


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_family_is_known_by_its_template(name: str) -> None:
    assert SYNTAXES[name].name == NAMES[name]


def test_every_family_has_a_template_here() -> None:
    names = {module.__name__.rpartition(".")[2] for module in choice.modules()}
    assert names == set(NAMES.values()) - {"learned"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_content_alone(name: str) -> None:
    check(name, {"content": "Some <b>text</b>, {braces} and [brackets]."}, "Some <b>text</b>, {braces} and [brackets].")


@pytest.mark.parametrize("name", WRITE_CALLS)
def test_one_call(name: str) -> None:
    arguments = {**ARGUMENTS, "city": "Pa{r}is, é"} if name == "lfm2" else ARGUMENTS  # its template quotes nothing
    check(name, {"content": "", "tool_calls": [call("get_weather", arguments)]}, "")


@pytest.mark.parametrize("name", WRITE_CALLS)
def test_a_call_without_arguments(name: str) -> None:
    check(name, {"content": "", "tool_calls": [call("stop_all", {})]}, "")


@pytest.mark.parametrize("name", [name for name in WRITE_CALLS if name not in ONE_CALL])
def test_several_calls_behind_a_text(name: str) -> None:
    calls = [
        call("get_weather", {"city": "Rome", "count": -1}),
        call("stop_all", {}, 2),
        call("get_time", {"city": ""}, 3),
    ]
    check(name, {"content": "I look.", "tool_calls": calls}, "I look.")


@pytest.mark.parametrize("name", WRITE_THOUGHTS)
def test_a_thought_and_content(name: str) -> None:
    thought = {"reasoning_content": "So:\n\n1. a {b}", "thinking": "So:\n\n1. a {b}"}
    check(name, {"content": "Yes.", **thought}, "Yes.", "So:\n\n1. a {b}")


@pytest.mark.parametrize("name", WRITE_THOUGHTS)
def test_a_thought_and_a_call(name: str) -> None:
    thought = {"reasoning_content": "Hm.", "thinking": "Hm."}
    check(name, {"content": "", "tool_calls": [call("get_time", {"city": "Rome"})], **thought}, "", "Hm.")


KNOWN_BY_LEARNING = [name for name in WRITE_CALLS if name not in ("llama3", "gemma", "harmony", "functionary")]


@pytest.mark.parametrize("name", KNOWN_BY_LEARNING)
def test_what_is_learned_reads_what_families_read(name: str) -> None:
    """Two ways to the same answer: a family's file, and the template's own difference."""
    form, header = learned(Shown(template(name)))
    syntax = FormSyntax("learned", form, header)
    calls = [call("get_weather", {"city": "Rome", "count": 2}), call("get_time", {"city": "Oslo"}, 2)]
    prompt, text = written(template(name), {"content": "I look.", "tool_calls": calls})
    content, _, found = joined(parsed(syntax, list(text), prompt))
    assert values(found) == [("get_weather", {"city": "Rome", "count": 2}), ("get_time", {"city": "Oslo"})]
    assert content == "I look."


# -- streams --


def test_arguments_come_as_they_are_written() -> None:
    parser = SYNTAXES["hermes"].parser("", TOOLS)
    assert parser.push('Yes.\n<tool_call>\n{"name": "get_') == [Content("Yes.")]
    assert parser.push('weather", "argum') == []
    begun = parser.push('ents": {"ci')
    assert [type(piece) for piece in begun] == [Call, Arguments]
    assert begun[0][2] == "get_weather"
    assert begun[1:] == [Arguments(0, '{"ci')]
    assert parser.push('ty": "Ro') == [Arguments(0, 'ty": "Ro')]
    assert parser.push('me"}}\n</tool_') == [Arguments(0, 'me"}')]
    assert parser.push("call>") == []
    assert parser.finish() == []
    assert parser.finish() == []
    with pytest.raises(ValueError, match="ended"):
        parser.push("x")


def test_tagged_texts_come_as_they_are_written() -> None:
    parser = SYNTAXES["qwen_tags"].parser("<think>\n\n</think>\n\n", TOOLS)
    assert parser.push("<tool_call>\n<function=get_time>\n<parameter=city>\nNew ")[1:] == [
        Arguments(0, '{"city": "New ')
    ]
    assert parser.push("York") == [Arguments(0, "York")]
    assert parser.push("\n</parameter") == []
    assert parser.push(">\n</function>\n</tool_call>") == [Arguments(0, '"}')]


def test_content_waits_only_for_what_may_be_a_marker() -> None:
    parser = SYNTAXES["hermes"].parser("", TOOLS)
    assert parser.push("a < b <tool") == [Content("a < b")]
    assert parser.push("box> c") == [Content(" <toolbox> c")]
    assert parser.push(" <tool_cal") == []
    assert parser.finish() == [Content(" <tool_cal")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_rest_is_never_kept(name: str) -> None:
    """A parser holds what may be a marker and no more, so its work is linear in the text."""
    prompt, text = written(
        template(name), {"content": "word " * 2000, "tool_calls": [call("get_time", {"city": "x" * 5000})]}
    )
    parser = SYNTAXES[name].parser(prompt, TOOLS)
    held = 0
    for char in text:
        parser.push(char)
        held = max(held, len(parser._reader._text))
    assert held < 100


# -- anything --

_WORDS = """
<think> </think> <tool_call> </tool_call> [ ] { } ( ) , " \\ \\u12 é ]< to= >>> text get_time city='a' {"name":"
get_time", "arguments": {"city":"a"} {"name":"get_time","arguments":{"city":"a"}} <function=get_time> <parameter=city>
</parameter> </function> [TOOL_CALLS] [ARGS] <|tool_call> <tool_call|> call:get_time {city: <|"|> <｜tool▁call▁begin｜>
<｜tool▁sep｜> <|channel|> analysis <|message|> <|end|> <|start|>assistant <arg_key> city </arg_key> <arg_value>
</arg_value> <|tool_call_start|> <|tool_call_end|>
"""
_PARTS = [*_WORDS.split(), "\n", " ", " to=functions.get_time"]


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.sampled_from(_PARTS), max_size=25), seed=st.integers(0, 99), thinking=st.booleans())
def test_anything_is_read_without_an_error_in_any_pieces(
    name: str, parts: list[str], seed: int, thinking: bool
) -> None:
    text = "".join(parts)
    prompt = PROMPTS[name] + ("<think>\n" if thinking else "")
    whole = joined(parsed(SYNTAXES[name], [text], prompt))
    assert joined(parsed(SYNTAXES[name], list(text), prompt)) == whole
    assert joined(parsed(SYNTAXES[name], pieces_of(text, seed), prompt)) == whole


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab<>|/{}[]\"' \n_tol_call=", max_size=60))
def test_a_text_without_markers_stays_as_it_is(text: str) -> None:
    for name in ("hermes", "mistral", "glm", "kimi"):
        content, thoughts, calls = joined(parsed(SYNTAXES[name], list(text)))
        assert (content, thoughts, calls) == (text, "", [])


# -- what templates do not show --


def test_a_template_that_knows_no_tools_gets_instructions() -> None:
    made = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    syntax = syntax_of(made)
    assert syntax.name == "generic"
    text = ' <think>a</think> {"name": "get_time", "arguments": {}} <tool_call>'
    assert joined(parsed(syntax, [text])) == (text, "", [])
    assert joined(parsed(syntax, [text], tools=None)) == (text, "", [])
    told = syntax.instructions(TOOLS)
    assert told is not None
    assert all(json.dumps(one["function"]) in told for one in TOOLS)
    assert syntax.instructions([]) is None
    call = told.partition("<tool_call>")[2].replace('"..."', '"get_time"').replace("{...}", '{"city": "Rome"}')
    assert values(joined(parsed(syntax, [f"<tool_call>{call}"]))[2]) == [("get_time", {"city": "Rome"})]
    assert SYNTAXES["hermes"].instructions(TOOLS) is None


def test_a_template_that_tells_of_tools_in_a_way_of_its_own_is_content() -> None:
    made = ChatTemplate("{{ tools }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    syntax = syntax_of(made)
    assert (syntax.name, syntax.markers, syntax.instructions(TOOLS)) == ("plain", (), None)
    text = ' <think>a</think> {"name": "get_time", "arguments": {}} <tool_call>'
    assert joined(parsed(syntax, [text])) == (text, "", [])


def test_an_architecture_tells_where_a_template_does_not() -> None:
    made = ChatTemplate("{{ 'List of tools: ' ~ tools if tools }}{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert syntax_of(made).name == "plain"
    assert syntax_of(made, "lfm2moe").name == "lfm2"
    assert syntax_of(ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}"), "gpt-oss").name == "harmony"


def test_a_template_that_always_fails_is_content() -> None:
    syntax = syntax_of(ChatTemplate("{{ raise_exception('no') }}"))
    assert joined(parsed(syntax, ["a"])) == ("a", "", [])


def test_a_slow_template_is_not_rendered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MOST_SECONDS", 0.01)

    class Slow:
        source = "<tool_call> </tool_call>"
        count = 0

        def render(self, messages: Any, add_generation_prompt: bool = True, **extra: Any) -> str:
            self.count += 1
            time.sleep(0.004)
            return str(messages[0]["content"])

    slow = Slow()
    assert syntax_of(slow).name == "hermes"  # named in the source
    assert slow.count <= 5


def test_markers_of_a_template_are_its_own() -> None:
    assert SYNTAXES["hermes"].markers[:4] == ("<think>", "</think>", "<tool_call>", "</tool_call>")
    assert SYNTAXES["hermes"].shows("<tool_call>")
    assert not SYNTAXES["hermes"].shows("<|im_end|>")
    assert not SYNTAXES["hermes"].shows("")
    assert "<｜tool▁calls▁begin｜>" in SYNTAXES["deepseek_r1"].markers
    assert "[TOOL_CALLS]" in SYNTAXES["mistral"].markers


def test_thoughts_alone_are_learned() -> None:
    made = ChatTemplate(
        "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<muse>{{ m.reasoning_content }}</muse>"
        "{% endif %}{{ m.content }}[/]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    syntax = syntax_of(made)
    assert syntax.parser("[user]a[/][assistant]").push("<muse>a</muse>b") == [Thought("a"), Content("b")]
    assert syntax.parser("[user]a[/][assistant]<muse>").push("a</muse>b") == [Thought("a"), Content("b")]
    assert syntax.parser("[assistant]<muse>a</muse>b[/][user]a[/][assistant]").push("c d") == [Content("c d")]
