"""Special tokens and chat templates: what begins and ends a text, and what the files of a folder say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from trained_tokenizers import write_json
from vocabularies import ADDED, exported, made_of, small, value, written

import ggufpy


def test_special_tokens_of_several_files(tmp_path: Path) -> None:
    write = {"eos_token_id": [257, 258, 260]}
    tmp_path.mkdir(exist_ok=True)
    write_json(tmp_path / "generation_config.json", write)
    made = made_of(tmp_path, small(ADDED), {"bos_token_id": 256}, eos_token="</s>", pad_token={"content": "</s>"})
    keys = [key.removeprefix("tokenizer.ggml.") for key in made.keys]
    assert keys == [
        "model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "padding_token_id",
        "eot_token_id", "eom_token_id", "add_bos_token", "add_eos_token",
    ]  # fmt: skip
    named = ("bos", "eos", "padding", "eot", "eom")
    assert [value(made, f"{name}_token_id") for name in named] == [256, 257, 257, 258, 260]
    assert {257, 258, 260} <= written(made, tmp_path).end_tokens


@pytest.mark.parametrize(
    ("single", "settings", "flags"),
    [
        ("<s> $A", {"bos_token": "<s>"}, (True, False)),
        ("$A </s>", {"eos_token": "</s>"}, (False, True)),
        ("<s> $A </s>", {}, (True, True)),
        ("$A", {"bos_token": "<s>", "add_bos_token": True}, (True, False)),
        (None, {"eos_token": "</s>", "add_eos_token": True}, (False, True)),
        (None, {"bos_token": "<s>"}, (False, False)),
    ],
)
def test_what_is_put_around_a_text(
    tmp_path: Path, single: str | None, settings: dict[str, Any], flags: tuple[bool, bool]
) -> None:
    description = small(ADDED)
    if single is not None:
        used = [(name, token) for name, token in (("<s>", 256), ("</s>", 257)) if name in single]
        template = processors.TemplateProcessing(single=single, pair=None, special_tokens=used)
        description["post_processor"] = json.loads(template.__getstate__())
    made = made_of(tmp_path, description, **settings)
    assert (value(made, "add_bos_token"), value(made, "add_eos_token")) == flags
    own = written(made, tmp_path)
    assert own.encode("a", add_special=True) == [256] * flags[0] + [97] + [257] * flags[1]


def test_what_ends_a_turn_stays_known_where_another_token_ends_a_text(tmp_path: Path) -> None:
    template = processors.TemplateProcessing(single="$A </s>", pair=None, special_tokens=[("</s>", 257)])
    description = small(ADDED) | {"post_processor": json.loads(template.__getstate__())}
    made = made_of(tmp_path, description, eos_token="<|im_end|>")
    assert (value(made, "eos_token_id"), value(made, "eot_token_id"), value(made, "add_eos_token")) == (257, 258, True)


def test_roberta_and_the_order_of_processors(tmp_path: Path) -> None:
    roberta = {"type": "RobertaProcessing", "sep": ["</s>", 257], "cls": ["<s>", 256], "trim_offsets": True,
               "add_prefix_space": False}  # fmt: skip
    made = made_of(tmp_path, small(ADDED) | {"post_processor": roberta})
    flags = [value(made, f"add_{name}_token") for name in ("bos", "eos", "sep")]
    assert flags == [True, True, True]
    assert [value(made, f"{name}_token_id") for name in ("bos", "eos", "seperator", "cls")] == [256, 257, 257, 256]
    byte_level_alone = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    byte_first = {"type": "Sequence", "processors": [byte_level_alone]}
    made = made_of(tmp_path, small(ADDED) | {"post_processor": byte_first}, bos_token="<s>", add_bos_token=True)
    assert value(made, "add_bos_token") is False  # the processor has the last word, as in llama.cpp


def test_settings_of_transformers_5(tmp_path: Path) -> None:
    made = made_of(
        tmp_path, small(ADDED), backend="tokenizers", bos_token="<s>", eos_token="</s>", is_local=True,
        extra_special_tokens=["<|im_end|>"], model_specific_special_tokens={"x_token": "</s>"},
    )  # fmt: skip
    assert (value(made, "bos_token_id"), value(made, "eos_token_id")) == (256, 257)


def test_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]
    made = made_of(tmp_path, small(), chat_template=named)
    templates = {key: typed.value for key, typed in made.keys.items() if "chat_template" in key}
    assert templates == {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.tool_use": "T",
        "tokenizer.chat_templates": ["tool_use"],
    }
    (tmp_path / "chat_template.jinja").write_text("J\n", newline="")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R")
    made = made_of(tmp_path, small(), chat_template="D")
    assert made.keys["tokenizer.chat_template"].value == "J\n"
    assert made.keys["tokenizer.chat_template.rag"].value == "R"
    assert "another template" in made.notes[0]
    exported(made, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "J\n"
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "R"
    old = tmp_path / "old"
    old.mkdir()
    write_json(old / "chat_template.json", {"chat_template": "O"})
    assert made_of(old, small()).keys["tokenizer.chat_template"].value == "O"


def test_templates_of_one_name_in_gguf(tmp_path: Path) -> None:
    named = [{"name": n, "template": t} for n, t in (("tool use", "A"), ("tool_use", "B"), ("tool-use", "A"))]
    made = made_of(tmp_path, small(), chat_template=named)
    assert made.keys["tokenizer.chat_template.tool_use"].value == "A"
    assert made.notes == ("the chat template 'tool_use' is left out: GGUF knows another by the name 'tool_use'",)


def test_a_template_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ggufpy.GGUFError, match="the chat template 'default' is not valid Unicode"):
        made_of(tmp_path, small(), chat_template="\ud800")


def test_the_end_of_a_document_ends_a_text(tmp_path: Path) -> None:
    made = made_of(tmp_path, small(ADDED), {"eos_token_id": 257, "eod_token_id": 260}, eos_token="</s>")
    assert (value(made, "eos_token_id"), value(made, "eot_token_id")) == (257, 260)


def test_several_tokens_before_a_text_are_said(tmp_path: Path) -> None:
    both = [("<s>", 256), ("</s>", 257)]
    template = processors.TemplateProcessing(single="<s> </s> $A", pair=None, special_tokens=both)
    description = small(ADDED[:2]) | {"post_processor": json.loads(template.__getstate__())}
    made = made_of(tmp_path, description, bos_token="<s>")
    assert made.notes == ("2 tokens are put before a text, and GGUF can say one: <s>, </s>",)
    assert value(made, "add_bos_token") is True
