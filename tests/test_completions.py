"""Completions of one call: several choices, functions of the caller, log probabilities of prompts, asyncio."""

from __future__ import annotations

import asyncio
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from llm_fakes import BOS, VOCAB, fake_llama, vague

import ggufpy
from ggufpy.generate.sampling import Guides

SURE = float(10 - np.log(np.exp(10) + VOCAB - 1))  # of the token that follows, in the fake model
REST = float(-np.log(np.exp(10) + VOCAB - 1))


def texts(out: Any) -> list[str]:
    return [choice["text"] for choice in out["choices"]]


# -- choices --


@pytest.mark.parametrize("places", [1, 2, 8])
def test_choices_have_seeds_that_follow_one_another(places: int) -> None:
    with fake_llama(rows=vague, n_parallel=places, n_ctx=128) as llm:
        out = llm("abc", max_tokens=12, n=4, seed=7)
        assert [choice["index"] for choice in out["choices"]] == [0, 1, 2, 3]
        alone = [llm("abc", max_tokens=12, seed=7 + i)["choices"][0]["text"] for i in range(4)]
    assert texts(out) == alone
    assert len(set(alone)) > 1
    assert out["usage"]["completion_tokens"] == 48
    assert out["usage"]["prompt_tokens"] == 4


def test_choices_share_what_is_read_of_the_prompt() -> None:
    with fake_llama(rows=vague, n_parallel=4, n_ctx=128) as llm:
        llm("abcdefgh", max_tokens=2, n=4, seed=1)
        read = [tokens for tokens in llm.engine.log if len(tokens) > 1]  # type: ignore[attr-defined]
    assert read == [[BOS, *b"abcdefgh"]]


def test_choices_are_streamed_side_by_side() -> None:
    with fake_llama(rows=vague, n_parallel=2, n_ctx=128) as llm:
        whole = texts(llm("abc", max_tokens=6, n=3, seed=3))
        parts = ["", "", ""]
        order = []
        for chunk in llm("abc", max_tokens=6, n=3, seed=3, stream=True):
            (choice,) = chunk["choices"]
            parts[choice["index"]] += choice["text"]
            order.append(choice["index"])
    assert parts == whole
    assert order.index(1) < 3  # the second begins before the first is over
    assert order.index(2) > 6  # the third waits for a place


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, 1025])
def test_counts_of_choices_that_cannot_be(n: Any) -> None:
    with pytest.raises(ggufpy.GGUFError, match=r"\bn is "):
        fake_llama()("a", n=n)


# -- functions of the caller --


def test_a_processor_sees_the_text_and_changes_what_comes() -> None:
    seen: list[list[int]] = []

    def process(ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(ids.tolist())
        logits[ord("q")] = 99.0
        return logits

    out = fake_llama()("ab", max_tokens=2, temperature=0.0, logits_processor=[process])
    assert texts(out) == ["qq"]
    assert seen == [[BOS, *b"ab"], [BOS, *b"abq"]]


def test_a_criterion_ends_a_text_before_a_token() -> None:
    def enough(ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> bool:
        assert logits.shape == (VOCAB,)
        return len(ids) >= 5  # the beginning token, two of the prompt, two of the answer

    out = fake_llama()("ab", max_tokens=9, temperature=0.0, stopping_criteria=[enough])
    assert texts(out) == ["cd"]
    assert out["choices"][0]["finish_reason"] == "stop"
    assert out["usage"]["completion_tokens"] == 2


def test_functions_that_are_none_are_refused() -> None:
    for name in ("logits_processor", "stopping_criteria"):
        with pytest.raises(ggufpy.GGUFError, match=name):
            fake_llama()("a", **{name: [3]})
        with pytest.raises(ggufpy.GGUFError, match=name):
            fake_llama()("a", **{name: 3})


def test_what_a_function_raises_ends_its_call_alone() -> None:
    def fails(ids: Any, logits: Any) -> Any:
        raise ZeroDivisionError("mine")

    with fake_llama() as llm:
        with pytest.raises(ZeroDivisionError, match="mine"):
            llm("a", logits_processor=fails)
        assert texts(llm("a", max_tokens=2, temperature=0.0)) == ["bc"]


def test_guides_go_with_tokens_too() -> None:
    guides = Guides(processors=(lambda ids, logits: np.roll(logits, 1),))
    assert list(fake_llama().generate([*b"a"], limit=3, temp=0.0, guides=guides)) == [*b"ceg"]


# -- log probabilities --


def test_log_probabilities_of_an_echoed_prompt() -> None:
    out = fake_llama()("abd", max_tokens=1, temperature=0.0, logprobs=1, echo=True)["choices"][0]
    assert out["text"] == "abde"
    got = out["logprobs"]
    assert got["tokens"] == ["a", "b", "d", "e"]
    assert got["text_offset"] == [0, 1, 2, 3]
    # behind the beginning token, 256, comes 1 in the fake model
    assert got["token_logprobs"] == pytest.approx([REST, SURE, REST, SURE])
    assert got["top_logprobs"][1] == pytest.approx({"b": SURE})
    assert got["top_logprobs"][2] == pytest.approx({"c": SURE, "d": REST})


def test_nothing_comes_before_the_first_token() -> None:
    got = fake_llama()([*b"ab"], max_tokens=1, temperature=0.0, logprobs=0, echo=True)["choices"][0]["logprobs"]
    assert got["token_logprobs"] == [None, pytest.approx(SURE), pytest.approx(SURE)]
    assert got["top_logprobs"] == [None, {"b": pytest.approx(SURE)}, {"c": pytest.approx(SURE)}]


def test_streamed_and_whole_log_probabilities_agree() -> None:
    options: dict[str, Any] = {"max_tokens": 3, "temperature": 0.0, "logprobs": 2, "echo": True}
    whole = fake_llama()("ab", **options)["choices"][0]["logprobs"]
    parts = [c["choices"][0]["logprobs"] for c in fake_llama()("ab", stream=True, **options)]
    joined = {name: [value for part in parts for value in part[name]] for name in whole}
    assert joined == whole


# -- usage --


def test_usage_says_what_was_read_before() -> None:
    with fake_llama() as llm:
        llm("abcd", max_tokens=1, temperature=0.0)
        chunks = list(llm("abcde", max_tokens=2, temperature=0.0, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 2,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    with pytest.raises(ggufpy.GGUFError, match="include_usage is all"):
        fake_llama()("a", stream_options={"include": True})


# -- what cannot be asked --


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="temprature"):
        fake_llama()("a", temprature=1.0)
    with pytest.raises(ggufpy.GGUFError, match="no tokens to fill in"):
        fake_llama()("a", suffix="b")
    with pytest.raises(ggufpy.GGUFError, match="the model has no adapters"):
        fake_llama()("a", lora={"x.gguf": 1.0})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "xml"}, r'response_format.type is .*"json_schema"'),
        ({"type": "json_schema"}, r"response_format.json_schema is missing"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, r"response_format.json_schema.schema is missing"),
        ("json", "response_format is 'json'"),
    ],
)
def test_response_formats_that_cannot_be(given: Any, message: str) -> None:
    with pytest.raises(ggufpy.GGUFError, match=message):
        fake_llama()("a", response_format=given)


def test_arguments_without_effect_warn_by_name(tmp_path: Any) -> None:
    nowhere = tmp_path / "none.gguf"
    with pytest.warns(UserWarning, match="use_mlock has no effect"), pytest.raises(ggufpy.GGUFError, match="no such"):
        ggufpy.Llama(nowhere, use_mlock=True, flash_attn=True, n_ubatch=64, no_perf=True)
    with pytest.raises(TypeError, match="no argument 'use_mlok'; did you mean 'use_mlock'"):
        ggufpy.Llama(nowhere, use_mlok=True)
    with pytest.raises(TypeError, match="no argument 'n_contex'; did you mean 'n_ctx'"):
        ggufpy.Llama(nowhere, n_contex=1)
    for wrong in ({"kv_overrides": {"a": []}}, {"rope_freq_scale": -1.0}, {"pooling_type": 9}, {"type_k": 77}):
        with pytest.raises(ggufpy.GGUFError, match=next(iter(wrong))):
            ggufpy.Llama(nowhere, **wrong)  # type: ignore[arg-type]


def test_offsets_of_tokens_whose_text_is_held_back() -> None:
    with fake_llama() as llm:
        options: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0, "logprobs": 0, "stop": "efgX"}
        whole: Any = llm("abc", **options)
        chunks: Any = [*llm("abc", **options, stream=True)]
    assert whole["choices"][0]["text"] == "defgh"
    found = whole["choices"][0]["logprobs"]
    assert found["tokens"] == [*"defgh"]
    assert found["text_offset"] == [3, 4, 5, 6, 7]  # of the prompt and what follows
    assert [at for chunk in chunks for at in chunk["choices"][0]["logprobs"]["text_offset"]] == found["text_offset"]


def test_two_beginning_tokens_are_told_of() -> None:
    with fake_llama() as llm:
        with pytest.warns(RuntimeWarning, match="two beginning tokens") as told:
            llm.create_completion([BOS, BOS, 97], max_tokens=1)
        assert told[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            llm("a", max_tokens=1), llm([BOS, 97], max_tokens=1), llm([97], max_tokens=1)


def test_models_do_not_wait_for_one_another() -> None:
    with fake_llama() as one, fake_llama() as other:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(other.turns), daemon=True)
        with one._making:
            thread.start()
            thread.join(10)
            assert len(found) == 1


@pytest.mark.filterwarnings("error")  # what a generator raises that nobody holds is a warning
def test_a_stream_that_outlives_its_model() -> None:
    class Empty:
        def find(self, key: Any, model: str) -> Any:
            raise KeyError(key)

        def __setitem__(self, key: Any, value: Any) -> None:
            raise AssertionError

    llm = fake_llama()
    llm.__dict__["model_fingerprint"] = "fake"
    llm.set_cache(Empty())
    stream: Any = llm("a", max_tokens=9, stream=True)
    next(stream)
    llm.close()
    stream.close()  # as when nobody holds it any more


# -- asyncio --


def test_calls_of_a_loop_run_together() -> None:
    async def main() -> list[Any]:
        with fake_llama(n_parallel=4, n_ctx=128) as llm:
            calls = [llm.acreate_completion(f"{c}", max_tokens=5, temperature=0.0) for c in "abcd"]
            return list(await asyncio.gather(*calls))

    assert [texts(out)[0] for out in asyncio.run(main())] == ["bcdef", "cdefg", "defgh", "efghi"]


def test_a_stream_of_a_loop() -> None:
    async def main() -> str:
        with fake_llama() as llm:
            stream = await llm.acreate_completion("w", max_tokens=9, temperature=0.0, stream=True)
            return "".join([chunk["choices"][0]["text"] async for chunk in stream])  # type: ignore[union-attr]

    assert asyncio.run(main()) == "xyz"


def test_a_cancelled_call_ends_before_the_next_step() -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def main() -> int:
        with fake_llama(n_ctx=4096, succ=lambda token: ord("a")) as llm:
            engine: Any = llm.engine

            def before() -> None:
                if len(engine.log) == 3:
                    begun.set()
                    go_on.wait(10)

            engine.before = before
            task = asyncio.create_task(llm.acreate_completion("a", max_tokens=4000, temperature=0.0))  # type: ignore[arg-type]
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            out = await llm.acreate_completion("b", max_tokens=1, temperature=0.0)
            assert texts(out) == ["a"]
            return len(engine.log)

    assert asyncio.run(main()) < 10


def test_errors_reach_the_loop() -> None:
    async def main() -> None:
        with fake_llama() as llm:
            with pytest.raises(ggufpy.GGUFError, match="context holds"):
                await llm.acreate_completion("b" * 100)
            with pytest.raises(TypeError, match="temprature"):
                await llm.acreate_completion("b", temprature=1)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_handler_of_chats_answers_a_loop_too(stream: bool) -> None:
    threads: list[threading.Thread] = []

    def handler(**given: Any) -> Any:
        threads.append(threading.current_thread())
        assert (given["max_tokens"], given["stream"], given["temperature"]) == (3, stream, 0.5)
        return iter([{"a": 1}, {"a": 2}]) if stream else {"a": 0}

    async def main() -> list[Any]:
        with fake_llama() as llm:
            llm.chat_handler = handler
            ask = [{"role": "user", "content": "x"}]
            made = await llm.acreate_chat_completion(ask, 3, stream=stream, temperature=0.5)
            return [made] if isinstance(made, dict) else [chunk async for chunk in made]

    assert asyncio.run(main()) == ([{"a": 1}, {"a": 2}] if stream else [{"a": 0}])
    assert threads[0] is not threading.main_thread()


# -- several prompts --


@pytest.mark.parametrize("places", [1, 3])
def test_several_prompts_have_choices_of_their_own(places: int) -> None:
    with fake_llama(rows=vague, n_parallel=places, n_ctx=128) as llm:
        out = llm(["abc", [*b"de"]], max_tokens=6, n=2, seed=7)
        alone = [texts(llm(prompt, max_tokens=6, n=2, seed=7)) for prompt in ("abc", [*b"de"])]
        assert texts(out) == [*alone[0], *alone[1]]
        assert [choice["index"] for choice in out["choices"]] == [0, 1, 2, 3]
        assert out["usage"]["prompt_tokens"] == 6
        parts = [""] * 4
        for chunk in llm(["abc", [*b"de"]], max_tokens=6, n=2, seed=7, stream=True):
            parts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert parts == texts(out)


def test_prompts_are_echoed_each_with_its_log_probabilities() -> None:
    out = fake_llama()(["ab", "xyz"], max_tokens=1, temperature=0.0, echo=True, logprobs=0)
    assert texts(out) == ["abc", "xyz"]
    assert [choice["logprobs"]["text_offset"] for choice in out["choices"]] == [[0, 1, 2], [0, 1, 2]]


def test_a_seed_gives_its_text_whatever_was_said_before() -> None:
    """The turn before has cut its text into other tokens than the tokeniser would."""
    with fake_llama(rows=vague, n_ctx=256) as llm:
        messages = [{"role": "user", "content": "ab"}]
        alone = llm.create_chat_completion(messages, max_tokens=9, seed=1)
        for n in range(3):
            llm.create_chat_completion(messages, max_tokens=5 + n)
            again = llm.create_chat_completion(messages, max_tokens=9, seed=1)
            assert again["choices"] == alone["choices"]  # type: ignore[index]
        whole = llm.create_chat_completion(messages, max_tokens=9, seed=1, cache_prompt=False)
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 0  # type: ignore[index]
    with pytest.raises(ggufpy.GGUFError, match="cache_prompt is 1"):
        fake_llama()("a", cache_prompt=1)
