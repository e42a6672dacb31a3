"""POST /completion as clients of llama-server know it: prompts, fields, records, streams, what ends a text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from byte_model import EOS, write_byte_model
from llm_fakes import fake_llama, vague
from serving import Running, serving

from ggufpy import Llama
from ggufpy.api.llama.answer import CompletionShape

COMPLETION = "/completion"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=256, n_parallel=2)}) as running:
        yield running


@pytest.fixture(scope="module")
def vague_server() -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=256, n_parallel=2, rows=vague)}) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture(scope="module")
def real(path: Path) -> Iterator[Running]:
    with serving({"m": lambda: Llama(path, n_parallel=2, n_threads=1)}) as running:
        yield running


def ask(server: Running, **body: Any) -> Any:
    answer = server.ask(COMPLETION, {"prompt": "hello", "n_predict": 3, "temperature": 0, **body})
    assert answer.status == 200, answer.body
    return answer.json


def refused(server: Running, **body: Any) -> str:
    answer = server.ask(COMPLETION, {"prompt": "hello", **body})
    assert answer.status == 400, answer.body
    error = answer.json["error"]
    assert error["code"] == 400
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    return str(error["message"])


def test_an_answer_has_what_llama_server_tells(server: Running) -> None:
    said = ask(server)
    assert said["content"] == "pqr"
    assert (said["stop"], said["stop_type"], said["stopping_word"]) == (True, "limit", "")
    assert (said["tokens_predicted"], said["tokens_evaluated"], said["tokens_cached"]) == (3, 6, 8)
    assert (said["index"], said["id_slot"], said["model"], said["tokens"]) == (0, 0, "fake", [])
    assert (said["prompt"], said["truncated"], said["has_new_line"]) == ("hello", False, False)
    assert said["generation_settings"]["n_predict"] == said["generation_settings"]["max_tokens"] == 3
    assert "completion_probabilities" not in said
    timings = said["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == 6
    assert timings["predicted_n"] == 3
    assert all(value >= 0 for value in timings.values())


def test_the_older_path_and_openai_names_are_the_same(server: Running) -> None:
    body = {"prompt": "hello", "max_tokens": 3, "temperature": 0, "response_fields": ["content"]}
    assert server.ask("/completions", body).json == {"content": "pqr"}
    assert ask(server, n_predict=None, max_completion_tokens=2)["content"] == "pq"


def test_a_stream_ends_with_the_whole_record_and_no_other_word(server: Running) -> None:
    answer = server.ask(COMPLETION, {"prompt": "hello", "n_predict": 3, "temperature": 0, "stream": True})
    *parts, last = answer.events
    assert b"[DONE]" not in answer.body
    assert "".join(part["content"] for part in parts) == "pqr"
    assert [part["tokens"] for part in parts] == [[112], [113], [114]]
    assert [part["tokens_predicted"] for part in parts] == [1, 2, 3]
    assert all(part["stop"] is False and "timings" not in part for part in parts)
    whole = ask(server, stream=False)
    assert last["content"] == ""
    assert last["generation_settings"]["stream"] is True
    assert set(last) == set(whole)
    assert last["stop_type"] == "limit"


def test_a_stream_can_tell_times_and_progress(server: Running) -> None:
    body = {"prompt": "hello", "n_predict": 2, "temperature": 0, "stream": True}
    first, second, *_ = server.ask(COMPLETION, {**body, "timings_per_token": True, "return_progress": True}).events
    assert first["prompt_progress"]["total"] == first["prompt_progress"]["processed"] == 6
    assert first["content"] == ""
    assert second["timings"]["predicted_n"] == 1


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hello", None),
        ([104, 105], None),
        ([256, "he", 108, "lo"], None),
        ({"prompt_string": "hello"}, None),
        ({"prompt_string": ["he", 108]}, None),
        (["hello", "abc"], 2),
        (["hello"], 1),
        ([[104, 105], "abc", {"prompt_string": "xy"}, [97, "b"]], 4),
    ],
)
def test_prompts_have_all_of_their_shapes(server: Running, prompt: Any, prompts: int | None) -> None:
    said = ask(server, prompt=prompt)
    if prompts is None:
        assert said["tokens_predicted"] == 3
    else:
        assert [each["index"] for each in said] == list(range(prompts))


def test_texts_begin_with_a_beginning_token_and_tokens_do_not(server: Running) -> None:
    assert ask(server, prompt="hi")["tokens_evaluated"] == 3
    assert ask(server, prompt=[104, 105])["tokens_evaluated"] == 2
    assert ask(server, prompt=["h", 105])["tokens_evaluated"] == 3
    assert ask(server, prompt=[104, "i"])["tokens_evaluated"] == 2


def test_several_prompts_times_several_texts(server: Running) -> None:
    said = ask(server, prompt=["hello", "abc"], n_cmpl=2)
    assert [each["content"] for each in said] == ["pqr", "pqr", "def", "def"]
    assert [each["prompt"] for each in said] == ["hello", "hello", "abc", "abc"]
    events = server.ask(
        COMPLETION, {"prompt": ["hello", "abc"], "n_predict": 3, "temperature": 0, "stream": True}
    ).events
    by_index = {i: "".join(e["content"] for e in events if e["index"] == i) for i in (0, 1)}
    assert by_index == {0: "pqr", 1: "def"}
    assert sum(event["stop"] for event in events) == 2


def test_more_texts_than_places_take_turns(server: Running) -> None:
    said = ask(server, prompt=["hello"] * 7)
    assert [each["content"] for each in said] == ["pqr"] * 7
    assert {each["id_slot"] for each in said} == {0, 1}


@pytest.mark.parametrize(
    ("body", "content", "stop_type", "word"),
    [
        ({"prompt": "xy", "n_predict": -1}, "z", "eos", ""),
        ({"prompt": "a", "stop": ["e"]}, "bcd", "word", "e"),
        ({"prompt": "a", "stop": "ef"}, "bcd", "word", "ef"),
        ({"prompt": "a", "stop": ["gh", "fg", ""]}, "bcde", "word", "fg"),
        ({"prompt": "a", "n_predict": 2}, "bc", "limit", ""),
        ({"prompt": "a", "n_predict": 0}, "", "limit", ""),
    ],
)
def test_what_ends_a_text(server: Running, body: Any, content: str, stop_type: str, word: str) -> None:
    for stream in (False, True):
        asked = {"n_predict": 20, "temperature": 0, **body, "stream": stream}
        answer = server.ask(COMPLETION, asked)
        said = answer.events if stream else [answer.json]
        assert "".join(each["content"] for each in said) == content
        assert (said[-1]["stop_type"], said[-1]["stopping_word"]) == (stop_type, word)
        if body.get("n_predict") == 0:
            assert said[-1]["tokens_predicted"] == 0


def test_a_full_context_is_the_end_and_says_so(server: Running) -> None:
    said = ask(server, n_predict=-1, logit_bias=[[EOS, False]], prompt="a" * 250)
    assert said["stop_type"] == "limit"
    assert said["truncated"] is True
    assert said["tokens_evaluated"] + said["tokens_predicted"] >= 256


def test_a_prompt_that_is_too_long_says_both_numbers(server: Running) -> None:
    answer = server.ask(COMPLETION, {"prompt": "x" * 300})
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 301, 256)
    assert "301" in error["message"]
    assert "256" in error["message"]


def test_tokens_are_told_where_they_are_wanted(server: Running) -> None:
    assert ask(server, return_tokens=True)["tokens"] == [112, 113, 114]


def test_response_fields_pick_and_unnest(server: Running) -> None:
    fields = ["content", "generation_settings/n_predict", "nothing", "content/more"]
    assert ask(server, response_fields=fields) == {"content": "pqr", "generation_settings/n_predict": 3}
    assert "timings" in ask(server, response_fields=[])


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_before_sampling(vague_server: Running, stream: bool) -> None:
    answer = vague_server.ask(COMPLETION, {"prompt": "abc", "n_predict": 5, "n_probs": 4, "seed": 1, "stream": stream})
    if stream:
        listed = [each["completion_probabilities"] for each in answer.events if not each["stop"]]
        probabilities = [one for (one,) in listed]
    else:
        probabilities = answer.json["completion_probabilities"]
    assert len(probabilities) == 5
    for each in probabilities:
        assert len(each["top_logprobs"]) == 4
        assert each["logprob"] <= 0
        assert each["token"] == chr(each["id"])
        assert each["bytes"] == [each["id"]]
        values = [one["logprob"] for one in each["top_logprobs"]]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_after_sampling(vague_server: Running, stream: bool) -> None:
    body = {"prompt": "abc", "n_predict": 5, "n_probs": 20, "seed": 1, "top_k": 3, "post_sampling_probs": True}
    body |= {"min_p": 0, "top_p": 1, "stream": stream, "n_cmpl": 1 if stream else 2}
    answer = vague_server.ask(COMPLETION, body)
    if stream:
        texts = [[each["completion_probabilities"][0] for each in answer.events if not each["stop"]]]
    else:
        texts = [each["completion_probabilities"] for each in answer.json]
    for each in [one for text in texts for one in text]:
        assert 1 <= len(each["top_probs"]) <= 3
        assert math.isclose(sum(one["prob"] for one in each["top_probs"]), 1, abs_tol=1e-9)
        (drawn,) = [one for one in each["top_probs"] if one["id"] == each["id"]]
        assert each["prob"] == drawn["prob"] > 0


def test_the_watched_text_is_the_text(vague_server: Running) -> None:
    body = {"temperature": 1.2, "seed": 11, "n_predict": 40, "prompt": "abc"}
    plain = ask(vague_server, **body)["content"]
    assert ask(vague_server, **body, n_probs=3, post_sampling_probs=True)["content"] == plain


def test_indents_end_a_text(server: Running) -> None:
    """After "\\x08" come "\\t", "\\n", "\\x0b": a line that does not begin with a blank."""
    said = ask(server, prompt=[256, 8], n_predict=20, n_indent=1)
    assert (said["content"], said["stop_type"], said["has_new_line"]) == ("\t\n", "limit", True)


@pytest.mark.parametrize(
    "bias", [[[112, False]], [["p", False]], {"p": False}, {"112": -1000}, [[112, -100], [9999, 3], ["", 3]]]
)
def test_biases_have_all_of_their_shapes(server: Running, bias: Any) -> None:
    assert "p" not in ask(server, logit_bias=bias, n_predict=1)["content"]


def test_ignore_eos_goes_on(server: Running) -> None:
    said = ask(server, prompt="y", n_predict=5, ignore_eos=True)
    assert said["tokens_predicted"] == 5
    assert {each["token"] for each in said["generation_settings"]["logit_bias"]} == {EOS}


def test_grammars_and_schemas_hold(real: Running) -> None:
    assert ask(real, grammar='root ::= "yes" | "no"', n_predict=10)["content"] in ("yes", "no")
    number = {"type": "integer", "minimum": 10, "maximum": 99}
    assert ask(real, json_schema=number, n_predict=10)["content"].strip().isdigit()
    assert ask(real, json_schema={}, n_predict=40)["content"].startswith("{")
    assert ask(real, grammar="", n_predict=1)["tokens_predicted"] == 1


@pytest.mark.parametrize("options", [{"seed": 4}, {"seed": 4, "temperature": 1.5, "top_k": 0}, {"temperature": 0}])
def test_the_text_is_the_librarys(real: Running, path: Path, options: Any) -> None:
    body = {"prompt": "Once upon a time", "n_predict": 24, "return_tokens": True, **options}
    said = real.ask(COMPLETION, body).json
    with Llama(path, n_threads=1) as llm:
        tokens = llm.tokenizer.encode("Once upon a time", add_special=True)
        drawn = [*llm.generate(tokens, limit=24, reuse="none", **options)]
    assert said["tokens"] == drawn
    assert real.ask(COMPLETION, {**body, "cache_prompt": False}).json["tokens"] == drawn
    assert real.ask(COMPLETION, {**body, "cache_prompt": False}).json["timings"]["cache_n"] == 0


def test_settings_are_told_as_they_count(server: Running) -> None:
    body = {"top_p": 7, "min_p": -1, "top_k": -5, "temperature": -2, "mirostat": 9, "dry_base": 0.5, "seed": -1}
    settings = ask(server, **body, top_n_sigma=2)["generation_settings"]
    assert (settings["top_p"], settings["min_p"], settings["top_k"]) == (1, 0, 0)
    assert (settings["temperature"], settings["mirostat"], settings["dry_base"]) == (0, 2, 1.75)
    assert (settings["seed"], settings["top_n_sigma"]) == (4294967295, 2)
    named = ask(server, samplers=["top_k", "temperature"], seed=7)["generation_settings"]
    assert (named["samplers"], named["seed"]) == (["top_k", "temperature"], 7)
    assert ask(server, samplers="kt")["generation_settings"]["samplers"] == ["top_k", "temperature"]


def test_a_chat_clients_body_is_taken(server: Running) -> None:
    """SillyTavern sends fields of many servers to each."""
    body = {
        "max_new_tokens": 9, "n_predict": 3, "max_tokens": 3, "sampler_seed": -1, "seed": -1, "typical": 1, "tfs": 1,
        "typical_p": 1, "repetition_penalty": 1, "rep_pen": 1, "repeat_penalty": 1, "tfs_z": 1, "min_tokens": 0,
        "add_bos_token": True, "dynatemp_low": 1, "dynatemp_high": 1, "dynatemp_range": 0, "dynatemp_exponent": 1,
        "smoothing_factor": 0, "stopping_strings": ["\nUser:"], "stop": ["\nUser:"], "truncation_length": 4096,
        "ban_eos_token": False, "ignore_eos": False, "skip_special_tokens": True, "mirostat_mode": 0, "mirostat": 0,
        "custom_token_bans": "", "api_type": "llamacpp", "api_server": "http://127.0.0.1:8080", "grammar": "",
        "guidance_scale": 1, "negative_prompt": "", "logit_bias": [], "cache_prompt": True, "model": "fake",
    }  # fmt: skip
    assert ask(server, **body)["content"] == "pqr"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"nonsense": 1}, "nonsense is no field"),
        ({"tempertaure": 1}, "did you mean temperature"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, "multimodal_data"),
        ({"prompt": {"text": "a"}}, "prompt_string is all"),
        ({"prompt": [1.5, 2]}, "prompt[0]"),
        ({"prompt": [97, 100000]}, "not in the vocabulary"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": 5}, "prompt is 5"),
        ({"prompt": [["a"], [None]]}, "prompt[1][0]"),
        ({"n_predict": -2}, "n_predict is -2"),
        ({"n_predict": "x"}, "n_predict"),
        ({"n_cmpl": 3}, "n_cmpl is 3"),
        ({"id_slot": 2}, "id_slot is 2"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"samplers": ["nothing"]}, "no sampler"),
        ({"samplers": 5}, "samplers"),
        ({"grammar": "root ::= ["}, "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar and json_schema"),
        ({"json_schema": {"type": "nothing"}}, "json_schema"),
        ({"json_schema": []}, "json_schema"),
        ({"logit_bias": [[1]]}, "logit_bias[0]"),
        ({"logit_bias": [[97, True]]}, "logit_bias[0]"),
        ({"logit_bias": 5}, "logit_bias"),
        ({"lora": [{"id": 0}]}, "lora[0]"),
        ({"lora": [{"id": 0, "scale": 1}]}, "no adapters"),
        ({"grammar_lazy": True, "grammar": 'root ::= "a"'}, "grammar_lazy cannot be honoured"),
        ({"preserved_tokens": ["a"]}, "preserved_tokens cannot be honoured"),
        ({"reasoning_format": "none"}, "reasoning_format cannot be honoured"),
        ({"echo": True}, "echo cannot be honoured"),
        ({"messages": []}, "send POST /v1/chat/completions"),
        ({"n_probs": 2, "post_sampling_probs": True, "mirostat": 2}, "mirostat"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"adaptive_decay": 2}, "adaptive_decay"),
        ({"seed": 1 << 70}, "seed"),
        ({"response_fields": "content"}, "response_fields"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_cannot_be_is_said_by_name(server: Running, body: Any, said: str) -> None:
    assert said in refused(server, **body)


def test_a_pinned_text_has_its_slot(server: Running) -> None:
    assert ask(server, id_slot=1)["id_slot"] == 1
    assert [each["id_slot"] for each in ask(server, prompt=["a", "b", "c"], id_slot=1)] == [1, 1, 1]


def test_a_fault_of_ours_ends_a_stream_in_its_own_words(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: CompletionShape, number: int, *_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(CompletionShape, "_final", fails)
    body = {"prompt": "a", "n_predict": 24, "temperature": 0}  # more than come at once
    *parts, last = server.ask(COMPLETION, {**body, "stream": True}).events
    assert parts
    assert "bcdefghijklmnopqrstuvwxyz".startswith("".join(part["content"] for part in parts))
    assert last["error"]["code"] == 500
    whole = server.ask(COMPLETION, body)
    assert whole.status == 500
    assert "ZeroDivisionError" in whole.json["error"]["message"]
