"""llama-server's routes beside completions: tokens, templates, infill, embeddings, adapters, props, health; hostile
bodies of all of them."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_model import FIRST_FIM, write_byte_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy import Llama
from ggufpy.api.llama import fields
from ggufpy.api.llama.limits import Limits
from ggufpy.server.routes import all_routes

HI = [{"role": "user", "content": "hi"}]
PRE, SUF, MID, REP, SEP = (f"<|x_{part}|>" for part in ("pre", "suf", "mid", "rep", "sep"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Running]:
    with serving({"m": lambda: Llama(path, n_parallel=2, n_threads=1, n_batch=32)}) as running:
        yield running


def said(server: Running, path: str, body: Any) -> Any:
    answer = server.ask(path, body)
    assert answer.status == 200, answer.body
    return answer.json


def refused(server: Running, path: str, body: Any, status: int = 400) -> str:
    answer = server.ask(path, body)
    assert answer.status == status, answer.body
    assert answer.json["error"]["code"] == status
    return str(answer.json["error"]["message"])


def test_texts_and_tokens_there_and_back(server: Running) -> None:
    assert said(server, "/tokenize", {"content": "ab"}) == {"tokens": [97, 98]}
    assert said(server, "/tokenize", {"content": "ab", "add_special": True}) == {"tokens": [256, 97, 98]}
    assert said(server, "/tokenize", {"content": ["a", 98, "c"], "add_special": True}) == {"tokens": [256, 97, 98, 99]}
    assert said(server, "/tokenize", {"content": PRE}) == {"tokens": [FIRST_FIM]}
    plain = said(server, "/tokenize", {"content": PRE, "parse_special": False})["tokens"]
    assert bytes(plain).decode() == PRE
    assert said(server, "/tokenize", {}) == {"tokens": []}
    assert said(server, "/detokenize", {"tokens": [256, 104, 105]}) == {"content": "<s>hi"}
    assert said(server, "/detokenize", {}) == {"content": ""}
    assert said(server, "/detokenize", {"tokens": [195]}) == {"content": "\ufffd"}


def test_pieces_are_texts_or_bytes(server: Running) -> None:
    made = said(server, "/tokenize", {"content": "aá", "with_pieces": True})["tokens"]
    assert made == [{"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 161, "piece": [161]}]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(server: Running, text: str) -> None:
    tokens = said(server, "/tokenize", {"content": text, "parse_special": False})["tokens"]
    assert said(server, "/detokenize", {"tokens": tokens})["content"] == text


def test_templates_are_applied_and_nothing_is_evaluated(server: Running) -> None:
    with Llama(server.service.pool.loaded[0].llm.name, n_threads=1) as llm:
        expected = llm.chat_prompt(HI).text
    assert (
        said(server, "/apply-template", {"messages": HI}) == {"prompt": expected} == {"prompt": "user: hi\nassistant: "}
    )
    assert said(server, "/apply-template", {"messages": HI, "add_generation_prompt": False})["prompt"] == "user: hi\n"
    assert said(server, "/apply-template", {"messages": HI, "temperature": 1, "stream": True})["prompt"] == expected
    assert "messages" in refused(server, "/apply-template", {})
    assert "messages" in refused(server, "/apply-template", {"chat_template_kwargs": {"messages": []}, "messages": HI})


def test_infill_frames_what_is_before_and_behind(server: Running) -> None:
    body = {"input_prefix": "ab", "input_suffix": "cd", "n_predict": 2, "temperature": 0, "ignore_eos": True}
    made = said(server, "/infill", {**body, "prompt": "x"})
    assert made["tokens_predicted"] == 2
    assert made["prompt"] == f"{REP}myproject\n{SEP}filename\n<s>{PRE}abx{SUF}cd{MID}"
    files = [{"filename": "f.h", "text": "one"}, {"text": "two"}]
    made = said(server, "/infill", {**body, "input_extra": files})
    context = f"{REP}myproject\n{SEP}f.h\none{SEP}tmp\ntwo{SEP}filename\n"
    assert made["prompt"] == f"{context}<s>{PRE}ab{SUF}cd{MID}"


def test_infill_takes_what_is_near_of_long_texts(server: Running) -> None:
    body = {"input_prefix": "0123456789" * 30, "input_suffix": "abcdefghij" * 30, "n_predict": 1}
    prompt = said(server, "/infill", body)["prompt"]
    front, behind = prompt.split(PRE)[1].split(MID)[0].split(SUF)
    assert front == ("0123456789" * 30)[-24:]  # three quarters of a batch of 32
    assert behind == "abcdef"  # a quarter of it, but for two tokens
    assert said(server, "/infill", {**body, "stream": False, "n_predict": 0})["tokens_predicted"] == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"input_suffix": ""}, "input_prefix is missing"),
        ({"input_prefix": ""}, "input_suffix is missing"),
        ({"input_prefix": "", "input_suffix": 5}, "input_suffix"),
        ({"input_prefix": "", "input_suffix": "", "prompt": ["a"]}, "prompt"),
        *(
            ({"input_prefix": "", "input_suffix": "", "input_extra": [extra]}, "input_extra[0]")
            for extra in ({}, {"filename": "ok"}, {"filename": 123, "text": "abc"}, {"text": 456}, "text")
        ),
        ({"input_prefix": "", "input_suffix": "", "input_extra": {"text": "a"}}, "input_extra"),
        ({"input_prefix": "", "input_suffix": "", "suffix": "a"}, "suffix is no field"),
    ],
)
def test_infill_says_what_is_wrong(server: Running, body: Any, told: str) -> None:
    assert told in refused(server, "/infill", body)


def test_a_model_that_cannot_fill_in_is_not_supported() -> None:
    with serving({"fake": fake_llama}) as running:
        assert "fill in" in refused(running, "/infill", {"input_prefix": "", "input_suffix": ""}, 501)


def test_embeddings_have_llama_servers_shape(server: Running, path: Path) -> None:
    with Llama(path, n_threads=1) as llm:
        expected = np.array(llm.embed("hi", normalize=True))
        raw = np.array(llm.embed("hi"))
    (one,) = said(server, "/embedding", {"content": "hi"})
    assert one["index"] == 0
    np.testing.assert_allclose(one["embedding"], [expected], rtol=1e-6, atol=1e-9)
    several = ["hi", [256, 104, 105], {"prompt_string": "hi"}, {"content": [{"type": "text", "text": "hi"}]}]
    made = said(server, "/embeddings", {"input": several})
    assert [each["index"] for each in made] == [0, 1, 2, 3]
    for each in made:
        np.testing.assert_allclose(each["embedding"], [expected], rtol=1e-6, atol=1e-9)
    for norm, lengths in ((-1, None), (0, np.inf), (1, 1), (2, 2), (3, 3)):
        (row,) = said(server, "/embedding", {"content": "hi", "embd_normalize": norm})[0]["embedding"]
        if lengths is None:
            np.testing.assert_allclose(row, raw, rtol=1e-6, atol=1e-9)
        else:
            assert np.isclose(np.linalg.norm(row, lengths), 32760 if norm == 0 else 1)


def test_without_pooling_each_token_has_a_row(path: Path) -> None:
    with serving({"m": lambda: Llama(path, n_threads=1, pooling_type="none")}) as running:
        rows = np.array(said(running, "/embeddings", {"input": "abc"})[0]["embedding"])
    assert rows.shape[0] == 4
    assert not np.allclose(np.linalg.norm(rows, axis=1), 1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "input or content is missing"),
        ({"input": []}, "input is an empty list"),
        ({"content": 5}, "content is 5"),
        ({"input": {"content": "text"}}, "content"),
        ({"input": {"content": [{"type": "image_url"}]}}, "image_url"),
        ({"input": "a", "encoding_format": "base64"}, "encoding_format"),
        ({"input": "a", "embd_normalize": -2}, "embd_normalize"),
        ({"input": "a" * 400}, "longer than the context"),
        ({"input": [[], "a"]}, "input[0]"),
    ],
)
def test_what_cannot_be_embedded(server: Running, body: Any, told: str) -> None:
    assert told in refused(server, "/embeddings", body)


def test_adapters_are_scaled_for_calls_that_name_none(tmp_path: Path, path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf")
    body = {"prompt": "Once", "n_predict": 12, "temperature": 0, "response_fields": ["content"]}
    with serving({"m": lambda: Llama(path, n_threads=1, lora_path=str(adapter), lora_scale=1.0)}) as running:
        assert said(running, "/lora-adapters", None) == [{"id": 0, "path": str(adapter), "scale": 1.0}]
        with_it = said(running, "/completion", body)
        without = said(running, "/completion", {**body, "lora": [{"id": 0, "scale": 0.0}]})
        assert with_it != without
        assert said(running, "/lora-adapters", []) == {"success": True}
        assert said(running, "/lora-adapters", None)[0]["scale"] == 0.0
        assert said(running, "/completion", body) == without
        assert said(running, "/completion", {**body, "lora": [{"id": 0, "scale": 1}]}) == with_it
        said(running, "/lora-adapters", [{"id": 0, "scale": 1.0}])
        assert said(running, "/completion", body) == with_it
        assert "list" in refused(running, "/lora-adapters", {"id": 0, "scale": 1})
        assert "lora names 7" in refused(running, "/lora-adapters", [{"id": 7, "scale": 1}])


def write_adapter(path: Path) -> Path:
    """A LoRA adapter of the model's first projection."""
    from engine import SIZES

    from ggufpy import format as gguf

    width = SIZES["embedding_length"]
    random = np.random.default_rng(3)
    tensors = {
        "blk.0.attn_output.weight.lora_a": random.normal(0, 1, (4, width)).astype(np.float32),
        "blk.0.attn_output.weight.lora_b": random.normal(0, 1, (width, 4)).astype(np.float32),
    }
    about = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    gguf.write(path, {**about, "adapter.lora.alpha": 8.0}, tensors)
    return path


def test_props_tell_what_is_served(server: Running) -> None:
    props = said(server, "/props", None)
    assert props["total_slots"] == 2
    assert props["model_path"].endswith("m.gguf")
    assert props["model_alias"] == "m"
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")
    assert "messages" in props["chat_template"]
    assert props["build_info"].startswith("ggufpy-")
    assert "cannot be changed" in refused(server, "/props", {}, 501)
    assert server.ask("/props?model=other").status == 404


def test_health_waits_for_the_only_model() -> None:
    go_on = threading.Event()

    def slow() -> Llama:
        assert go_on.wait(20)
        return fake_llama()

    with serving({"fake": slow}) as running:
        assert said(running, "/health", None) == {"status": "ok"}  # nothing loads, and who asks is served
        body = json.dumps({"prompt": "a", "n_predict": 1}).encode()
        request = urllib.request.Request(running.url + "/completion", body, {"content-type": "application/json"})
        thread = threading.Thread(target=lambda: urllib.request.urlopen(request, timeout=20).read())
        thread.start()
        try:
            until(lambda: running.ask("/health").status == 503)
            error = running.ask("/v1/health").json
            assert error == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        finally:
            go_on.set()
            thread.join(20)
        assert said(running, "/health", None) == {"status": "ok"}


def test_a_key_is_asked_for_but_of_health() -> None:
    with serving({"fake": fake_llama}, keys=("secret",)) as running:
        assert running.ask("/health").status == 200
        answer = running.ask("/completion", {"prompt": "a"})
        assert answer.status == 401
        assert answer.json["error"]["type"] == "authentication_error"
        for header in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            assert running.ask("/completion", {"prompt": "a", "n_predict": 1}, headers=header).status == 200


def test_indents_and_times_end_lines() -> None:
    limits = Limits((), indent=2)
    assert "".join(map(limits.push, ["a\n", "  b", "\n ", "c", "d"])) == "a\n  b\n "
    assert (limits.hit, limits.stop_type, limits.found) == (True, "limit", None)
    now = iter([0.0, 1.0, 5.0])
    timed = Limits((), seconds=3.0, clock=lambda: next(now))
    assert (timed.push("a\n"), timed.hit) == ("a\n", False)
    assert (timed.push("b"), timed.hit) == ("b", False)
    assert (timed.push("\n"), timed.hit, timed.stop_type) == ("\n", True, "limit")
    assert (timed.push("more"), timed.flush()) == ("", "")


PATHS = [route.path for route in all_routes() if route.method == "POST" and route.path in {
    "/completion", "/infill", "/tokenize", "/detokenize", "/apply-template", "/embedding", "/lora-adapters", "/props",
}]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-2, 3, allow_nan=False) | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=2),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [*sorted(fields.KNOWN), "content", "input", "tokens", "input_prefix", "input_suffix", "input_extra", "messages",
     "tools", "with_pieces", "add_special", "chat_template_kwargs", "embd_normalize", "nothing"]
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.sampled_from(PATHS),
    body=st.dictionaries(NAMES, VALUES, max_size=4) | VALUES,
    prompt=st.sampled_from(["a", ["a", "b"], [97, 98], None]),
)
def test_no_body_makes_the_server_fail(server: Running, where: str, body: Any, prompt: Any) -> None:
    if isinstance(body, dict):
        body.setdefault("n_predict", 2)
        if prompt is not None and where == "/completion":
            body["prompt"] = prompt
    answer = server.ask(where, json.dumps(body).encode())
    assert answer.status in (200, 400, 404, 501), (answer.status, answer.body)
    if answer.status != 200:
        assert "\n" not in answer.json["error"]["message"]


ODD: list[Any] = [
    True, False, 0, 1, -1, -2, 300, 2**31, -(2**31), 2**64, 10**30, 10**400, 0.5, -0.5, 1e308, 1e-300, "", "a", "\0",
    "x" * 5000, [], [[]], [None], ["a"], [1], [[1, 2]], [["a", False]], [[1, 1e308]], [[1, "x"]], {}, {"a": 1},
    {"type": "object"}, {"$ref": "#"}, [{"id": 0, "scale": 1}], {"1": False}, {"\u00e9": -1e9}, [97, "b"],
    [{"prompt_string": "a"}],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_every_field_with_every_odd_value(server: Running, stream: bool) -> None:
    for name in sorted(fields.KNOWN | set(fields.REFUSED)):
        for value in ODD:
            body = {"prompt": "ab", "n_predict": 2, "stream": stream, "n_probs": 2, name: value}
            answer = server.ask("/completion", body)
            assert answer.status in (200, 400, 404), (name, value, answer.body)
            if answer.status != 200:
                message = answer.json["error"]["message"]
                assert "\n" not in message
                assert len(message) < 1000
