"""What models get wrong, and what clients complained of: each becomes a call, or content, never an error."""

from __future__ import annotations

import json
import re

import pytest
from chat_syntax_templates import joined, parsed, template, tool, values

from ggufpy.chat.syntax import Call, syntax_of

SYNTAXES = {
    name: syntax_of(template(name))
    for name in (
        *("hermes", "qwen_tags", "llama3", "mistral", "mistral_named", "deepseek_r1", "deepseek_v3.1", "gemma"),
        *("granite", "glm", "kimi", "lfm2", "functionary", "harmony", "own_tags"),
    )
}  # fmt: skip
ROME = [("get_time", {"city": "Rome"})]


def calls_of(name: str, text: str, prompt: str = "") -> tuple[str, str, list[tuple[str, object]]]:
    """Content, thoughts, calls with their arguments as values. Whole and character by character are the same."""
    whole = joined(parsed(SYNTAXES[name], [text], prompt))
    assert joined(parsed(SYNTAXES[name], list(text), prompt)) == whole
    return whole[0], whole[1], list(values(whole[2]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # keys in another order, other keys, other white space, a type beside them (llama.cpp's pull request 24329)
        ("hermes", '<tool_call>{"arguments":{"city":"Rome"},"name":"get_time"}</tool_call>'),
        ("hermes", '<tool_call>\n\n {"name" : "get_time",\n "parameters" : {"city": "Rome"}}</tool_call>'),
        ("hermes", '<tool_call>{"type": "function", "name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'),
        ("hermes", '<tool_call>{"function": {"name": "get_time", "arguments": {"city": "Rome"}}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}, "id": "a"}\n</tool_call>'),
        # arguments as a text that holds JSON
        ("hermes", r'<tool_call>{"name": "get_time", "arguments": "{\"city\": \"Rome\"}"}</tool_call>'),
        ("hermes", r'<tool_call>{"arguments": "{\"city\": \"R\u006fme\"}", "name": "get_time"}</tool_call>'),
        # brackets too many or too few, the end left out
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}}\n</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}\n</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}'),
        ("hermes", '<tool_call>[{"name": "get_time", "arguments": {"city": "Rome"}}]</tool_call>'),
        # Qwen's tags where JSON was taught, and the other way round (llama.cpp's issue 20260)
        ("hermes", "<tool_call>\n<function=get_time>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"),
        ("qwen_tags", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'),
        ("qwen_tags", "<function=get_time>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"),
        ("qwen_tags", "<tool_call><function=get_time><parameter=city>Rome</parameter></function></tool_call>"),
        ("llama3", '{"name": "get_time", "parameters": {"city": "Rome"}}'),
        ("llama3", '\n{"type": "function", "name": "get_time", "parameters": {"city": "Rome"}}'),
        ("llama3", '<|python_tag|>{"name": "get_time", "parameters": {"city": "Rome"}}'),
        ("llama3", '[{"name": "get_time", "parameters": {"city": "Rome"}}]'),
        ("mistral", '[TOOL_CALLS][{"name": "get_time", "arguments": {"city": "Rome"}, "id": "abcdefghi"}]'),
        ("mistral", '[TOOL_CALLS] [{"name": "get_time", "arguments": {"city": "Rome"}}]'),
        ("mistral", '[TOOL_CALLS]get_time{"city": "Rome"}'),
        ("mistral_named", '[TOOL_CALLS]get_time[ARGS]{"city": "Rome"}'),
        ("mistral_named", '[TOOL_CALLS]get_time {"city": "Rome"}'),
        ("deepseek_r1", '<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜>'),
        (
            "deepseek_r1",
            '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜>',
        ),
        ("deepseek_v3.1", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{"city": "Rome"}'),
        ("gemma", '<|tool_call>call:get_time{city:<|"|>Rome<|"|>}<tool_call|>'),
        ("gemma", '<|tool_call> call: get_time { city : <|"|>Rome<|"|> }'),
        ("granite", '<|tool_call|>[{"name": "get_time", "arguments": {"city": "Rome"}}]'),
        ("granite", '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'),
        ("glm", "<tool_call>get_time<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"),
        ("kimi", '<|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{"city": "Rome"}'),
        ("kimi", '<|tool_call_begin|>get_time<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|>'),
        ("lfm2", '<|tool_call_start|>[get_time(city="Rome")]<|tool_call_end|>'),
        ("lfm2", "<|tool_call_start|>get_time( city = 'Rome' )<|tool_call_end|>"),
        ("lfm2", '<|tool_call_start|>[{"name": "get_time", "arguments": {"city": "Rome"}}]<|tool_call_end|>'),
        ("harmony", '<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{"city": "Rome"}<|call|>'),
        ("harmony", ' to=functions.get_time<|channel|>analysis<|message|>{"city": "Rome"}'),
        ("own_tags", '<use>\n<one name="get_time"><with key="city">Rome</with></one></use>'),
    ],
)
def test_variants_are_calls(name: str, text: str) -> None:
    assert calls_of(name, text) == ("", "", ROME)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name": "no_such", "arguments": {"city": "Rome"}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": 3}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": "none"}</tool_call>'),
        ("hermes", '<tool_call>{"name": get_time}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {"city": "Rome"}}</tool_call>'),
        ("hermes", "Write <tool_call> and then the call."),
        ("hermes", "<tool_call>"),
        ("hermes", '<tool_call>{"name": "get_ti'),
        ("hermes", f'<tool_call>{{"name": "{"x" * 3000}", "arguments": {{}}}}'),
        ("qwen_tags", "<tool_call><function=no_such><parameter=city>Rome</parameter></function></tool_call>"),
        ("llama3", '{"name": "Bob", "parameters": {"age": 3}}'),
        ("llama3", '{"city": "Rome"}'),
        ("llama3", 'So: {"name": "get_time", "parameters": {"city": "Rome"}}'),
        ("llama3", "[1, 2, 3]"),
        ("mistral", "[TOOL_CALLS]no_such[ARGS]{}"),
        ("mistral", "[1, 2] and [TOOL_C"),
        ("gemma", "<|tool_call>call:no_such{}<tool_call|>"),
        ("gemma", "<|tool_call>get_time"),
        ("granite", "<|tool_call|>[]"),
        ("glm", "<tool_call>no_such<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"),
        ("glm", "<tool_call>get_time"),
        ("kimi", "<|tool_call_begin|>functions.no_such:0<|tool_call_argument_begin|>{}<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[no_such()]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[get_time(3)]<|tool_call_end|>"),
        ("functionary", ">>>no_such\n{}"),
        ("own_tags", "<use>\n<two>"),
    ],
)
def test_what_is_no_call_is_content_as_it_stands(name: str, text: str) -> None:
    assert calls_of(name, text) == (text, "", [])


def test_without_tools_nothing_is_a_call() -> None:
    text = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    for tools in (None, []):
        assert joined(parsed(SYNTAXES["hermes"], [f"<think>a</think>{text}"], tools=tools)) == (text, "a", [])


def test_a_call_that_fails_leaves_those_around_it() -> None:
    good = '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'
    bad = '<tool_call>{"name": "no_such", "arguments": {}}</tool_call>'
    content, _, calls = calls_of("hermes", f"{good}\n{bad}\n{good}")
    assert calls == [*ROME, *ROME]
    assert content.strip() == bad


def test_a_call_behind_one_without_arguments_is_kept() -> None:
    """As vLLM's issue 47901 has it."""
    text = (
        '<tool_call>{"name": "stop_all", "arguments": {}}</tool_call><tool_call>{"name": "get_time", "arguments": {}}'
    )
    assert calls_of("hermes", text)[2] == [("stop_all", {}), ("get_time", {})]
    text = '<tool_call>{"name": "stop_all"}</tool_call><tool_call>{"name": "stop_all", "arguments": null}</tool_call>'
    assert calls_of("hermes", text)[2] == [("stop_all", {})] * 2
    text = "<tool_call>stop_all</tool_call>\n<tool_call>stop_all\n</tool_call>"
    assert calls_of("glm", text)[2] == [("stop_all", {})] * 2
    text = '{"name": "stop_all", "parameters": {}}; {"name": "get_time", "parameters": {"city": "Rome"}}'
    assert calls_of("llama3", text)[2] == [("stop_all", {}), *ROME]


def test_text_behind_calls_is_content() -> None:
    text = 'First.\n\n<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>\nThen.\n'
    assert calls_of("hermes", text) == ("First.\nThen.\n", "", ROME)


# -- within values --


def test_markers_within_values_are_text() -> None:
    value = "</tool_call><think>}]\"'</parameter></function> <tool_call>{"
    text = f"<tool_call>{json.dumps({'name': 'get_time', 'arguments': {'city': value}})}</tool_call>"
    assert calls_of("hermes", text)[2] == [("get_time", {"city": value})]
    value = "a </parameter> b\n</function>\n</tool_call>"
    text = f"<tool_call>\n<function=get_time>\n<parameter=city>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert calls_of("qwen_tags", text)[2] == [("get_time", {"city": value})]


def test_line_breaks_within_json_strings_are_escaped() -> None:
    text = '<tool_call>{"name": "get_time", "arguments": {"city": "a\nb\tc"}}</tool_call>'
    assert calls_of("hermes", text)[2] == [("get_time", {"city": "a\nb\tc"})]


def test_escapes_are_kept_and_decoded_where_arguments_are_a_text() -> None:
    inner = r"{\"city\": \"\ud83d\ude00 \\u00e9 \\\" \\\\ \/\"}"
    text = f'<tool_call>{{"name": "get_time", "arguments": "{inner}"}}</tool_call>'
    assert calls_of("hermes", text)[2] == [("get_time", {"city": '😀 é " \\ /'})]
    text = r'<tool_call>{"name": "get_time", "arguments": "{\"city\": \"\ud83d \udc00\"}"}</tool_call>'
    assert calls_of("hermes", text)[2] == [("get_time", {"city": "\ufffd \ufffd"})]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "true", "true"),
        ({"type": "string"}, " a\n b ", " a\n b "),
        ({"type": "string"}, "", ""),
        ({"type": "integer"}, "12", 12),
        ({"type": "integer"}, "twelve", "twelve"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, "['a', None, True]", ["a", None, True]),
        ({"type": "object"}, '{"a": {"b": []}}', {"a": {"b": []}}),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "12", 12),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "1.5", "1.5"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"const": 3}, "3", 3),
        ({"$ref": "#/$defs/word"}, "7", "7"),
        ({"$ref": "#/$defs/loop"}, "7", 7),
        ({"allOf": [{"description": "a"}, {"type": "string"}]}, "7", "7"),
        ({}, "7", 7),
        ({}, "seven", "seven"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
    ],
)
def test_values_in_tags_have_the_types_of_the_schema(schema: object, text: str, value: object) -> None:
    definitions = {"word": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}
    tools = [tool("set", {"type": "object", "properties": {"x": schema}, "$defs": definitions})]
    for name, written in (
        ("qwen_tags", f"<tool_call>\n<function=set>\n<parameter=x>\n{text}\n</parameter>\n</function>\n</tool_call>"),
        ("glm", f"<tool_call>set\n<arg_key>x</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"),
    ):
        _, _, calls = joined(parsed(SYNTAXES[name], [written], tools=tools))
        assert values(calls) == [("set", {"x": value})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a\\'b'", "a'b"),
        ('"a, b) ]"', "a, b) ]"),
        ("'a\nb'", "a\nb"),
        ("[1, {'a': (2, 3)}]", [1, {"a": [2, 3]}]),
        ("None", None),
        ("true", True),
        ("-1.5e3", -1500.0),
        ("unquoted words", "unquoted words"),
    ],
)
def test_values_of_python(text: str, value: object) -> None:
    tools = [tool("set", {"type": "object", "properties": {"x": {}, "y": {}}})]
    written = f"<|tool_call_start|>[set(x={text}, y=1)]<|tool_call_end|>"
    _, _, calls = joined(parsed(SYNTAXES["lfm2"], list(written), tools=tools))
    assert values(calls) == [("set", {"x": value, "y": 1})]


def test_values_of_gemma() -> None:
    values_ = 'city:<|"|>a"\\\n{<|"|>,count:-2,flag:false,tags:[<|"|>x<|"|>,{a:null}],b:{}'
    text = f"<|tool_call>call:get_weather{{{values_}}}<tool_call|>"
    wanted = {"city": 'a"\\\n{', "count": -2, "flag": False, "tags": ["x", {"a": None}], "b": {}}
    assert calls_of("gemma", text)[2] == [("get_weather", wanted)]
    deep = "<|tool_call>call:get_time{city:" + "[" * 5000
    assert len(joined(parsed(SYNTAXES["gemma"], [deep]))[2]) == 1


def test_arguments_that_go_wrong_stay_as_far_as_they_came() -> None:
    cut = '<tool_call>{"name": "get_time", "arguments": {"city": "Ro'
    assert joined(parsed(SYNTAXES["hermes"], list(cut)))[2] == [("get_time", '{"city": "Ro')]
    odd = '<tool_call>{"name": "get_time", "arguments": {"city": [}}</tool_call>Then.'
    assert joined(parsed(SYNTAXES["hermes"], list(odd))) == ("Then.", "", [("get_time", '{"city": [')])
    cut = "<tool_call>\n<function=get_time>\n<parameter=city>\nRo"
    assert joined(parsed(SYNTAXES["qwen_tags"], list(cut)))[2][0][1].startswith('{"city": "Ro')


# -- thoughts --


@pytest.mark.parametrize(
    ("prompt", "text", "wanted"),
    [
        ("<|im_start|>assistant\n", "<think>\na\n</think>\n\nb", ("b", "a")),
        ("<|im_start|>assistant\n<think>\n", "a\n</think>\n\nb", ("b", "a")),
        ("<|im_start|>assistant\n<think>\n", "a </thi", ("", "a </thi")),  # never ended
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "b", ("b", "")),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "</think>\n\nb", ("b", "")),  # ended once more
        ("<|im_start|>assistant\n<think>a", "b</think>c", ("c", "b")),
        ("<|im_start|>user\n<think> is what?<|im_end|>\n<|im_start|>assistant\n", "b", ("b", "")),
        ("<|im_start|>assistant\n<think>a</think>b", " c", (" c", "")),  # goes on with an answer (ds4's issue 897)
        ("<|im_start|>assistant\n", "Models write <think> first.", ("Models write <think> first.", "")),
        ("<|im_start|>assistant\n", "<think></think>b", ("b", "")),
        ("<|im_start|>assistant\n", " \n<think>a</think>b", ("b", "a")),
        ("<|im_start|>assistant\n", "<think>a</think><think>b</think>c", ("c", "ab")),
        ("<|im_start|>assistant\n", "  b  ", ("  b  ", "")),
    ],
)
def test_thoughts(prompt: str, text: str, wanted: tuple[str, str]) -> None:
    assert calls_of("hermes", text, prompt)[:2] == wanted


def test_a_call_within_a_thought_is_a_thought_if_that_ends() -> None:
    call = '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'
    assert calls_of("hermes", f"<think>First {call} or so.</think>{call}") == ("", f"First {call} or so.", ROME)
    assert calls_of("hermes", f"<think>First\n{call}\nThen.") == ("Then.", "First", ROME)
    assert calls_of("hermes", f"<think>Not <tool_call>, but\n{call}") == ("", "Not <tool_call>, but", ROME)
    assert calls_of("hermes", "<think>Not <tool_call> at all") == ("", "Not <tool_call> at all", [])


def test_channels() -> None:
    text = (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.get_time json<|message|>{"city": "Rome"}<|call|>'
    )
    assert calls_of("harmony", text, "<|start|>assistant") == ("I look.", "a", ROME)
    text = "<|channel|>commentary to=functions.no_such<|message|>{}<|end|>"
    assert calls_of("harmony", text, "<|start|>assistant") == (text.removesuffix("<|end|>"), "", [])
    assert calls_of("harmony", "no channel", "<|start|>assistant") == ("no channel", "", [])
    assert calls_of("harmony", "<|channel|>analysis", "<|start|>assistant") == ("", "", [])
    head = "<|start|>assistant<|channel|>final<|message|>So"
    assert calls_of("harmony", "Hm.", "a prompt of another kind") == ("Hm.", "", [])
    assert calls_of("harmony", " it is.", head) == (" it is.", "", [])


# -- ids --


def test_ids() -> None:
    def ids(name: str, text: str) -> list[str]:
        return [piece.id for piece in parsed(SYNTAXES[name], [text]) if isinstance(piece, Call)]

    one = '<tool_call>{"name": "stop_all", "arguments": {}}</tool_call>'
    found = ids("hermes", one * 3)
    assert len(set(found)) == 3
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", id) for id in found)
    assert ids("kimi", "<|tool_call_begin|>functions.stop_all:0<|tool_call_argument_begin|>{}") == [
        "functions.stop_all:0"
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9]{9}", id) for id in ids("mistral", "[TOOL_CALLS]stop_all[ARGS]{}"))
    given = '<tool_call>{"id": "abc", "name": "stop_all", "arguments": {}}</tool_call>'
    assert ids("hermes", given)[0] == "abc"
    assert ids("hermes", given * 2)[1] != "abc"
    assert ids("hermes", given.replace("abc", "0"))[0] != "0"
