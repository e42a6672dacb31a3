"""`ggufpy.llama_cpp`: the names that programs import from llama-cpp-python, and what is said of those not here."""

from __future__ import annotations

import importlib
import json
import typing
from pathlib import Path
from typing import Any

import gguf
import pytest
from llm_fakes import fake_llama
from test_tokenizers import bpe_metadata

import ggufpy
import ggufpy.llama_cpp as llama_cpp
from ggufpy.backends.gpu import listing
from ggufpy.errors import GGUFError
from ggufpy.format import write
from ggufpy.grammar import Grammar
from ggufpy.llama_cpp import llama_types
from ggufpy.llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar, json_schema_to_gbnf
from ggufpy.llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaHFTokenizer, LlamaTokenizer

# Module-level names of llama-cpp-python 0.3.36 that are not of its low-level API, by module.
NAMES = {
    "llama": "Llama LlamaState LogitsProcessor LogitsProcessorList StoppingCriteria StoppingCriteriaList "
    "MinTokensLogitsProcessor LlamaGrammar BaseLlamaCache LlamaCache LlamaDiskCache LlamaRAMCache BaseLlamaTokenizer "
    "LlamaTokenizer LlamaDraftModel",
    "llama_cache": "BaseLlamaCache LlamaCache LlamaDiskCache LlamaRAMCache",
    "llama_chat_format": "ChatFormatter ChatFormatterResponse Jinja2ChatFormatter LlamaChatCompletionHandler "
    "LlamaChatCompletionHandlerNotFoundException LlamaChatCompletionHandlerRegistry "
    "chat_formatter_to_chat_completion_handler get_chat_completion_handler register_chat_completion_handler "
    "register_chat_format hf_autotokenizer_to_chat_completion_handler hf_autotokenizer_to_chat_formatter "
    "hf_tokenizer_config_to_chat_completion_handler hf_tokenizer_config_to_chat_formatter functionary_chat_handler "
    "functionary_v1_v2_chat_handler chatml_function_calling format format_alpaca format_baichuan format_baichuan2 "
    "format_chatglm3 format_chatml format_gemma format_intel format_llama2 format_llama3 format_mistral_instruct "
    "format_mistrallite format_oasst_llama format_open_orca format_openbuddy format_openchat format_phind "
    "format_pygmalion format_qwen format_redpajama_incite format_saiga format_snoozy format_zephyr Llava15ChatHandler "
    "Llava16ChatHandler MTMDChatHandler Gemma4ChatHandler ObsidianChatHandler MoondreamChatHandler "
    "NanoLlavaChatHandler Llama3VisionAlpha Llama3VisionAlphaChatHandler MiniCPMv26ChatHandler Qwen25VLChatHandler",
    "llama_grammar": "LlamaGrammar LLAMA_GRAMMAR_DEFAULT_ROOT JSON_GBNF json_schema_to_gbnf",
    "llama_speculative": "LlamaDraftModel LlamaPromptLookupDecoding",
    "llama_tokenizer": "BaseLlamaTokenizer LlamaHFTokenizer LlamaTokenizer",
    "llama_types": "ChatCompletionRequestMessage ChatCompletionTool CreateChatCompletionResponse CompletionChunk "
    "ChatCompletionChunk CreateCompletionStreamResponse CompletionUsage Embedding JsonType",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_programs_look_for_them(module: str) -> None:
    found = importlib.import_module(f"ggufpy.llama_cpp.{module}")
    assert getattr(llama_cpp, module) is found
    for name in NAMES[module].split():
        assert getattr(found, name) is not None
        assert name in found.__all__


def test_the_package_has_what_its_modules_have() -> None:
    assert llama_cpp.Llama is ggufpy.Llama
    assert llama_cpp.__version__ == "0.3.36"
    assert llama_cpp.ChatCompletionRequestUserMessage is llama_types.ChatCompletionRequestUserMessage
    for name in llama_cpp.__all__:
        assert getattr(llama_cpp, name) is not None
        assert name in dir(llama_cpp)


def test_lists_of_names_are_whole() -> None:
    constants = importlib.import_module("ggufpy.llama_cpp.llama_cpp")
    named = {name for name in vars(constants) if name.startswith(("LLAMA_", "GGML_", "llama_"))}
    assert set(constants.__all__) == named
    shapes = {name for name in vars(llama_types) if name.startswith(("ChatCompletion", "C", "Embedding", "Json"))}
    assert set(llama_types.__all__) == shapes


def test_star_imports() -> None:
    space: dict[str, Any] = {}
    exec("from ggufpy.llama_cpp import *", space)
    assert space["LLAMA_SPLIT_MODE_LAYER"] == 1
    assert space["Llama"] is ggufpy.Llama
    assert "import_module" not in space


def test_types_of_tensors_are_ggml_s() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert getattr(llama_cpp, f"GGML_TYPE_{kind.name}", kind.value) == kind.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLAMA_DEFAULT_SEED", 0xFFFFFFFF),
        ("LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED", -1),
        ("LLAMA_ROPE_SCALING_TYPE_LINEAR", 1),
        ("LLAMA_ROPE_SCALING_TYPE_YARN", 2),
        ("LLAMA_POOLING_TYPE_UNSPECIFIED", -1),
        ("LLAMA_POOLING_TYPE_MEAN", 1),
        ("LLAMA_POOLING_TYPE_CLS", 2),
        ("LLAMA_POOLING_TYPE_LAST", 3),
        ("LLAMA_POOLING_TYPE_RANK", 4),
        ("LLAMA_ATTENTION_TYPE_NON_CAUSAL", 1),
        ("LLAMA_SPLIT_MODE_NONE", 0),
        ("LLAMA_SPLIT_MODE_ROW", 2),
        ("LLAMA_FLASH_ATTN_TYPE_ENABLED", 1),
        ("GGML_TYPE_Q8_0", 8),
        ("GGML_TYPE_COUNT", 43),
        ("GGML_NUMA_STRATEGY_MIRROR", 4),
        ("LLAMA_LOAD_MODE_DIRECT_IO", 4),
        ("LLAMA_KV_OVERRIDE_TYPE_STR", 3),
        ("LLAMA_VOCAB_TYPE_PLAMO2", 6),
    ],
)
def test_constants_have_llama_h_s_values(name: str, value: int) -> None:
    assert getattr(llama_cpp, name) == value


def test_functions_that_mean_something() -> None:
    assert llama_cpp.llama_supports_mmap()
    assert llama_cpp.llama_supports_gpu_offload() == (not listing.why_none())
    assert not llama_cpp.llama_supports_mlock()
    assert not llama_cpp.llama_supports_rpc()
    assert llama_cpp.llama_max_devices() == llama_cpp.LLAMA_MAX_DEVICES
    assert llama_cpp.llama_print_system_info().startswith(b"ggufpy ")
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(lambda level, text, data: None), None)
    llama_cpp.llama_backend_free()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("llama_decode", "Llama.eval"),
        ("llama_batch_init", "Llama.eval"),
        ("llama_model_load_from_file", "Llama(model_path, ...)"),
        ("llama_model_default_params", "Llama(model_path, ...)"),
        ("llama_sampler_init_dist", "ggufpy.Sampling"),
        ("llama_tokenize", "Llama.tokenize"),
        ("llama_kv_self_clear", "Llama.reset"),
        ("llama_state_get_data", "Llama.save_state"),
        ("llama_adapter_lora_init", "lora_path"),
        ("llama_chat_apply_template", "create_chat_completion"),
        ("ggml_time_us", "what Llama has"),
    ],
)
def test_the_low_level_api_says_what_takes_its_place(name: str, instead: str) -> None:
    for module in (llama_cpp, importlib.import_module("ggufpy.llama_cpp.llama_cpp")):
        with pytest.raises(AttributeError) as caught:
            getattr(module, name)
        line = str(caught.value)
        assert line.startswith(f"{name}: llama.cpp's low-level API is not part of ggufpy; ")
        assert instead in line
        assert "\n" not in line


def test_other_names_are_no_names_at_all() -> None:
    with pytest.raises(AttributeError, match=r"module 'ggufpy\.llama_cpp' has no attribute 'nonsense'"):
        _ = llama_cpp.nonsense
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ggufpy.llama_cpp.mtmd_cpp")


def test_shapes_say_which_fields_may_be_missing() -> None:
    message = llama_types.ChatCompletionRequestAssistantMessage
    assert message.__required_keys__ == {"role"}
    assert message.__optional_keys__ == {"content", "tool_calls", "function_call"}
    assert llama_types.CreateCompletionResponse.__optional_keys__ == {"usage"}
    assert typing.get_type_hints(llama_types.ChatCompletionRequestToolMessage)["tool_call_id"] is str
    assert llama_types.ChatCompletionRequestUserMessage(role="user", content="a") == {"role": "user", "content": "a"}


# -- grammars --


def test_grammars_are_made_as_programs_make_them(tmp_path: Path) -> None:
    (tmp_path / "digits.gbnf").write_text('root ::= [0-9]+ "."', encoding="utf-8")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    made = [
        LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False),
        LlamaGrammar.from_file(str(tmp_path / "digits.gbnf")),
        LlamaGrammar.from_string(JSON_GBNF),
        LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False),
        LlamaGrammar.from_json_schema(schema),
    ]
    assert all(isinstance(grammar, LlamaGrammar) and isinstance(grammar, Grammar) for grammar in made)
    assert made[3] == made[4]


def test_grammars_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="the grammar cannot be read"):
        LlamaGrammar.from_file(tmp_path / "none.gbnf")
    with pytest.raises(GGUFError, match="json_schema"):
        LlamaGrammar.from_json_schema("{")
    with pytest.raises(GGUFError):
        LlamaGrammar.from_string("root :=")
    with pytest.raises(GGUFError, match=r"use LlamaGrammar\.from_json_schema"):
        json_schema_to_gbnf("{}")


# -- tokenizers --


def test_the_tokenizer_of_a_model() -> None:
    llm = fake_llama()
    tokenizer = LlamaTokenizer(llm)
    assert isinstance(tokenizer, BaseLlamaTokenizer)
    assert tokenizer.tokenize(b"ab") == [256, 97, 98]
    assert tokenizer.tokenize(b"ab<end>", add_bos=False) == [97, 98, 257]
    assert tokenizer.encode("ab", add_bos=False, special=False) == [97, 98]


def test_the_tokenizer_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    write(file, bpe_metadata(), {})
    tokenizer, own = LlamaTokenizer.from_ggml_file(str(file)), ggufpy.load_tokenizer(file)
    ids = tokenizer.tokenize(b"hello world")
    assert ids == own.encode("hello world", add_special=True, parse_special=True)
    assert tokenizer.detokenize(ids, prev_tokens=[1]) == own.decode_bytes(ids)
    assert tokenizer.decode(tokenizer.encode("hello")) == own.decode(own.encode("hello", True))


class Words:
    """A tokenizer as those of transformers are: words, with a special one at both ends."""

    def encode(self, text: str, add_special_tokens: bool) -> list[str]:
        words = [word for word in text.split(" ") if word]
        return ["<s>", *words, "</s>"] if add_special_tokens else words

    def decode(self, ids: list[str], skip_special_tokens: bool) -> str:
        return " ".join(word for word in ids if not (skip_special_tokens and word.startswith("<")))


def test_a_tokenizer_of_transformers() -> None:
    tokenizer = LlamaHFTokenizer(Words())
    ids: Any = tokenizer.tokenize(b"one two")
    assert ids == ["<s>", "one", "two", "</s>"]
    assert tokenizer.tokenize(b"one two", special=False) == ["one", "two"]  # type: ignore[comparison-overlap]
    assert tokenizer.detokenize(ids) == b"one two"
    assert tokenizer.detokenize(ids, special=True) == b"<s> one two </s>"
    assert tokenizer.detokenize(ids[2:3], prev_tokens=ids[:2]) == b" two"


def test_transformers_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(GGUFError, match="LlamaHFTokenizer needs transformers: pip install transformers"):
        LlamaHFTokenizer.from_pretrained("somewhere/else")
