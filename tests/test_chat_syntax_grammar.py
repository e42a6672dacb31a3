"""Grammars for calls: what a family writes passes, what breaks a schema or leaves a call out does not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_syntax_templates import NOTHING, TEMPLATES, TOOLS, call, joined, parsed, template, tool, values, written

import ggufpy
from ggufpy.chat.syntax import Syntax, syntax_of
from ggufpy.chat.tools import Offer, offered
from ggufpy.errors import GGUFError
from ggufpy.grammar import Constraint, Vocabulary
from ggufpy.tokenizers import load_tokenizer

SYNTAXES = {name: syntax_of(template(name)) for name in TEMPLATES}
CALLERS = [name for name in TEMPLATES if name != "granite"]
_TOKENS = """
<|im_start|> <|im_end|> <think> </think> <tool_call> </tool_call> [TOOL_CALLS] [ARGS] [THINK] [/THINK]
<｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜> <｜tool▁sep｜> <｜tool▁call▁end｜> <|tool_call>
<tool_call|> <|"|> <|channel> <channel|> <|tool_call|> <|tool_calls_section_begin|> <|tool_call_begin|>
<|tool_call_argument_begin|> <|tool_call_end|> <|tool_calls_section_end|> <|tool_call_start|> <|channel|>
<|message|> <|start|> <|end|> <|call|> <|return|>
"""


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Vocabulary]:
    """A token for each byte, and the end; with the tokens of markers, or without."""

    def made(tokens: list[str], path: Path) -> Vocabulary:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # as GPT-2 writes bytes
        rest = iter(range(256, 512))
        texts = [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)] + [*tokens, "<end>"]
        metadata: dict[str, Any] = {"general.architecture": "bytes", "tokenizer.ggml.model": "gpt2"}
        metadata |= {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": texts, "tokenizer.ggml.merges": ["h e"]}
        metadata |= {"tokenizer.ggml.token_type": [1] * 256 + [3] * (len(tokens) + 1)}
        metadata |= {"tokenizer.ggml.eos_token_id": len(texts) - 1}
        ggufpy.write(path, metadata, {"token_embd.weight": np.ones((len(texts), 32), np.float32)})
        return Vocabulary(load_tokenizer(path), len(texts))

    folder = tmp_path_factory.mktemp("vocabularies")
    return {True: made(_TOKENS.split(), folder / "tokens.gguf"), False: made([], folder / "bytes.gguf")}


def control(vocabulary: Vocabulary, text: str) -> int | None:
    token = vocabulary.tokenizer.vocab.ids.get(text)
    return token if token in vocabulary.special else None


def accepts(vocabulary: Vocabulary, syntax: Syntax, offer: Offer, prompt: str, text: str) -> bool:
    """Whether the grammar lets a text through to its end."""
    grammar = syntax.grammar(offer, prompt, lambda name: control(vocabulary, name))
    if grammar is None:
        return True
    constraint = Constraint(grammar, vocabulary)
    for token in [*vocabulary.tokenizer.encode(text, parse_special=True), vocabulary.ends[0]]:
        mask = constraint.mask()
        if not mask[token // 32] >> np.uint32(token % 32) & np.uint32(1):
            return False
        if token not in vocabulary.ends:
            constraint.accept(token)
    return True


@cache
def offer_of(choice: str, parallel: bool = True) -> Offer:
    named = {"type": "function", "function": {"name": choice}}
    offer = offered(TOOLS, choice if choice in ("none", "auto", "required") else named, parallel_tool_calls=parallel)
    assert offer is not None
    return offer


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", CALLERS)
def test_what_templates_write_passes(vocabularies: dict[bool, Vocabulary], name: str, tokens: bool) -> None:
    vocabulary, syntax = vocabularies[tokens], SYNTAXES[name]
    arguments = {"city": "Rome, {x}", "count": 3, "flag": name != "lfm2" or None, "tags": ["x", "y"]}
    if name == "lfm2":
        arguments = {"city": "Rome, {x}", "count": 3}  # its template writes what tojson makes of lists
    prompt, text = written(template(name), {"content": "", "tool_calls": [call("get_weather", arguments)]})
    for choice in ("auto", "required", "get_weather"):
        assert accepts(vocabulary, syntax, offer_of(choice), prompt, text), (choice, text)
        assert accepts(vocabulary, syntax, offer_of(choice, False), prompt, text), (choice, text)
    assert not accepts(vocabulary, syntax, offer_of("get_time"), prompt, text)
    empty = written(template(name), {"content": "", "tool_calls": [call("stop_all", {})]})[1]
    assert accepts(vocabulary, syntax, offer_of("required"), prompt, empty), empty


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", CALLERS)
def test_an_answer_is_free_unless_there_must_be_a_call(
    vocabularies: dict[bool, Vocabulary], name: str, tokens: bool
) -> None:
    vocabulary, syntax = vocabularies[tokens], SYNTAXES[name]
    prompt, text = written(template(name), {"content": 'It is {"a": [1]} <b>.'})
    assert accepts(vocabulary, syntax, offer_of("auto"), prompt, text), text
    assert not accepts(vocabulary, syntax, offer_of("required"), prompt, text)
    assert syntax.grammar(offer_of("none"), prompt, lambda name: None) is None


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", [name for name in CALLERS if name not in ("llama3", "harmony", "functionary")])
def test_several_calls(vocabularies: dict[bool, Vocabulary], name: str, tokens: bool) -> None:
    calls = [call("get_weather", {"city": "Rome"}), call("get_time", {"city": "Oslo"}, 2)]
    prompt, text = written(template(name), {"content": "I look.", "tool_calls": calls})
    vocabulary, syntax = vocabularies[tokens], SYNTAXES[name]
    assert accepts(vocabulary, syntax, offer_of("auto"), prompt, text), text
    assert not accepts(vocabulary, syntax, offer_of("required", False), prompt, text)
    prompt, text = written(template(name), {"content": "", "tool_calls": calls})
    assert accepts(vocabulary, syntax, offer_of("required"), prompt, text), text
    assert not accepts(vocabulary, syntax, offer_of("required", False), prompt, text)


THINKERS = ["hermes", "qwen_tags", "gemma", "glm", "harmony", "mistral_named", "own_tags"]


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", THINKERS)
def test_the_grammar_begins_behind_a_thought(vocabularies: dict[bool, Vocabulary], name: str, tokens: bool) -> None:
    vocabulary, syntax = vocabularies[tokens], SYNTAXES[name]
    thought = {"reasoning_content": 'Hm, {"a".', "thinking": 'Hm, {"a".'}
    message = {"content": "", "tool_calls": [call("get_time", {"city": "Rome"})], **thought}
    prompt, text = written(template(name), message)
    for choice in ("auto", "required", "get_time"):
        assert accepts(vocabulary, syntax, offer_of(choice), prompt, text), (choice, text)
    assert accepts(
        vocabulary, syntax, offer_of("auto"), prompt, written(template(name), {"content": "a", **thought})[1]
    )


BROKEN = {
    "hermes": '<tool_call>\n{"name": "get_time", "arguments": {"city": 3}}\n</tool_call>',
    "qwen_tags": "<tool_call>\n<function=get_time>\n<parameter=count>\n3\n</parameter>\n</function>\n</tool_call>",
    "llama3": '{"name": "get_time", "parameters": {"town": "Rome"}}',
    "mistral": '[TOOL_CALLS][{"name": "get_time", "arguments": {"city": "Rome", "count": "3"}}]',
    "mistral_named": '[TOOL_CALLS]get_time[ARGS]{"count": 3}',
    "deepseek_v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>",
    "gemma": '<|tool_call>call:get_time{city:<|"|>Rome<|"|>,count:<|"|>3<|"|>}<tool_call|>',
    "glm": "<tool_call>get_time\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>flag</arg_key>\n"
    "<arg_value>maybe</arg_value>\n</tool_call>",
    "lfm2": "<|tool_call_start|>[get_time(city=3)]<|tool_call_end|>",
    "harmony": ' to=functions.get_time<|channel|>commentary json<|message|>{"city": 3}',
}  # fmt: skip


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_a_call_fits_its_schema(vocabularies: dict[bool, Vocabulary], name: str, tokens: bool) -> None:
    vocabulary, syntax = vocabularies[tokens], SYNTAXES[name]
    for choice in ("auto", "required"):
        assert not accepts(vocabulary, syntax, offer_of(choice), "", BROKEN[name])


@pytest.mark.parametrize("name", ["lfm2", "gemma"])
def test_schemas_of_values_that_are_no_json(vocabularies: dict[bool, Vocabulary], name: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a b", "c"]},
            "at": {"$ref": "#/$defs/place"},
            "more": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"}}]},
        },
        "required": ["at"],
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    }
    offer = offered([tool("set", schema)], "required")
    assert offer is not None

    def passes(arguments: str) -> bool:
        text = f"<|tool_call>call:set{{{arguments}}}<tool_call|>"
        if name == "lfm2":
            text = f"<|tool_call_start|>[set({arguments})]<|tool_call_end|>"
        return accepts(vocabularies[True], SYNTAXES[name], offer, "", text)

    if name == "lfm2":
        good = [
            "at={'x': 1}",
            "kind='a b', at={'x': -2}",
            "kind='c', at={'x': 0}, more=[1.5, 2]",
            "at={'x': 1}, more=None",
        ]
        bad = ["", "kind='c'", "kind='d', at={'x': 1}", "at={'x': 1.5}", "at={}", "at={'x': 1}, more=['a']"]
    else:
        good = ["at:{x:1}", 'at:{x:-2},kind:<|"|>a b<|"|>', "at:{x:0},more:[1.5,2]", "at:{x:1},more:null"]
        bad = [
            "",
            'kind:<|"|>c<|"|>',
            'at:{x:1},kind:<|"|>d<|"|>',
            "at:{x:1.5}",
            "at:{}",
            'at:{x:1},more:[<|"|>a<|"|>]',
        ]
    assert [one for one in good if not passes(one)] == []
    assert [one for one in bad if passes(one)] == []


@pytest.mark.parametrize("name", ["hermes", "lfm2", "gemma", "glm", "qwen_tags"])
def test_a_schema_that_cannot_be_held_is_refused_where_it_must_be(name: str) -> None:
    keyword = {"patternProperties": {"a": {}}} if name == "hermes" else {"pattern": "a+"}
    properties = {"x": {"type": "object", **keyword} if name == "hermes" else {"type": "string", **keyword}}
    odd = tool("set", {"type": "object", "properties": properties})
    strict = {**odd, "function": {**odd["function"], "strict": True}}
    for tools, choice in (([odd], "required"), ([odd], odd), ([strict], "auto")):
        offer = offered(tools, choice)
        assert offer is not None
        with pytest.raises(GGUFError, match=r"set.parameters.*x.*[pP]attern"):
            SYNTAXES[name].grammar(offer, "", lambda text: None)
    offer = offered([odd], "auto")
    assert offer is not None
    assert SYNTAXES[name].grammar(offer, "", lambda text: None) is not None


def test_a_model_that_calls_nothing_cannot_be_made_to() -> None:
    syntax = syntax_of(ggufpy.chat.ChatTemplate("{{ tools }}{% for m in messages %}[{{ m.content }}]{% endfor %}"))
    with pytest.raises(GGUFError, match="tool_choice 'required': this model's chat template shows no calls of tools"):
        syntax.grammar(offer_of("required"), "", lambda text: None)
    assert syntax.grammar(offer_of("auto"), "", lambda text: None) is None


@pytest.mark.parametrize("name", CALLERS)
def test_what_is_drawn_at_random_parses(vocabularies: dict[bool, Vocabulary], name: str) -> None:
    """Tokens drawn from masks alone, as a model that knows nothing would: a call whose arguments fit the schema."""
    vocabulary, syntax = vocabularies[True], SYNTAXES[name]
    offer = offered(
        [tool("stop_all", NOTHING), tool("set", {"type": "object", "properties": {"on": {"type": "boolean"}}})],
        "required",
    )
    assert offer is not None
    grammar = syntax.grammar(offer, "</think>", lambda text: control(vocabulary, text))
    assert grammar is not None
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(8):
        constraint = Constraint(grammar, vocabulary)
        drawn: list[int] = []
        while len(drawn) < 400:
            mask = constraint.mask()
            allowed = [t for t in range(vocabulary.n_vocab) if mask[t // 32] >> np.uint32(t % 32) & np.uint32(1)]
            if any(token in vocabulary.ends for token in allowed):
                break
            drawn.append(int(rng.choice(allowed)))
            constraint.accept(drawn[-1])
        else:
            continue  # a thought that goes on
        text = vocabulary.tokenizer.decode(drawn, special=True)
        _, _, calls = joined(parsed(syntax, [text], "</think>", list(offer.tools)))
        assert calls, text
        for called, arguments in values(calls):
            assert set(arguments) <= ({"on"} if called == "set" else set()), text
            assert all(isinstance(value, bool) for value in arguments.values())
        found += 1
    assert found
