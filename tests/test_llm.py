"""`Llama` around a fake engine: context reuse, stop strings, OpenAI's shapes, errors."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llm_fakes import BOS, EOS, VOCAB, fake_llama, parts

import ggufpy
from ggufpy.chat import ChatTemplate
from ggufpy.generate.loading import Later, LoadOptions
from ggufpy.generate.stops import StopFilter
from ggufpy.llm import Llama


def ids(text: str) -> list[int]:
    return list(text.encode())


def take(llm: Llama, text: str, count: int) -> list[int]:
    return list(itertools.islice(llm.generate(ids(text), temp=0.0), count))


def test_generate_goes_on_to_the_end_token() -> None:
    llm = fake_llama()
    generation = llm.generate(ids("w"), temp=0.0)
    assert list(generation) == ids("xyz")
    assert generation.finish == "stop"
    assert llm.engine.held == ids("wxyz")


def test_generate_ends_where_the_context_does() -> None:
    llm = fake_llama(n_ctx=4)
    generation = llm.generate(ids("ab"), temp=0.0)
    # two tokens fill the context, the third was drawn from its last logits
    assert list(generation) == ids("cde")
    assert generation.finish == "length"
    assert list(generation) == []


def test_a_token_is_evaluated_only_when_the_next_is_asked_for() -> None:
    llm = fake_llama()
    generation = llm.generate(ids("ab"), temp=0.0)
    assert llm.engine.log == []
    assert next(generation) == ord("c")
    assert llm.engine.log == [ids("ab")]
    assert next(generation) == ord("d")
    assert llm.engine.log == [ids("ab"), ids("c")]


def test_the_common_prefix_is_not_evaluated_again() -> None:
    llm = fake_llama()
    assert take(llm, "abc", 2) == ids("de")
    llm.engine.log.clear()
    assert take(llm, "abcdX", 1) == ids("Y")
    assert llm.engine.log == [ids("X")]
    llm.engine.log.clear()
    assert take(llm, "abcd", 1) == ids("e")  # all held already: the last one again, for its logits
    assert llm.engine.log == [ids("d")]
    llm.engine.log.clear()
    assert take(llm, "aX", 1) == ids("Y")
    assert llm.engine.log == [ids("X")]
    assert llm.engine.held == ids("aX")
    llm.reset()
    assert llm.n_tokens == 0
    assert take(llm, "aX", 1) == ids("Y")
    assert llm.engine.log[-1] == ids("aX")


def test_what_an_interrupt_left_half_evaluated_is_used_rightly() -> None:
    llm = fake_llama(n_batch=3)
    llm.engine.fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        next(llm.generate(ids("abcdef"), temp=0.0))
    assert llm.n_tokens == 3
    llm.engine.fail_after = None
    llm.engine.log.clear()
    assert take(llm, "abcdef", 1) == ids("g")
    assert llm.engine.log == [ids("def")]


def test_two_generations_in_turn_have_what_they_have_alone() -> None:
    """There is one place: each takes it from the other, and reads its text again."""
    llm = fake_llama()
    first, second = llm.generate(ids("a"), temp=0.0), llm.generate(ids("b"), temp=0.0)
    assert [next(first), next(second), next(first), next(second)] == ids("bccd")
    llm.reset()
    assert [next(first), next(second)] == ids("de")
    assert llm.logits(ids("q")).shape == (1, VOCAB)
    assert list(second) == ids("fghijklmnopqrstuvwxyz")
    assert list(first) == ids("efghijklmnopqrstuvwxyz")


def test_ignore_eos_goes_on() -> None:
    llm = fake_llama(succ=lambda token: EOS)
    generation = llm.generate(ids("a"), temp=0.0, ignore_eos=True)
    assert EOS not in set(itertools.islice(generation, 5))
    assert generation.finish is None


def test_logits_are_fresh_and_of_every_token() -> None:
    llm = fake_llama()
    llm.eval(ids("xyz"))
    out = llm.logits(np.array(ids("ab")))
    assert out.shape == (2, VOCAB)
    assert out.dtype == np.float32
    assert out.argmax(-1).tolist() == ids("bc")
    assert llm.engine.held == ids("ab")
    assert llm.logits([]).shape == (0, VOCAB)


def test_eval_appends_and_refuses_what_does_not_fit() -> None:
    llm = fake_llama(n_ctx=4)
    llm.eval(ids("ab"))
    llm.eval(ids("c"))
    assert llm.n_tokens == 3
    with pytest.raises(ggufpy.GGUFError, match=r"2 tokens do not fit: 3 of the 4"):
        llm.eval(ids("de"))
    with pytest.raises(ggufpy.GGUFError, match="the prompt is 5 tokens and the context holds 4"):
        llm.generate(ids("abcde"))
    with pytest.raises(ggufpy.GGUFError, match="5 tokens are more than the context's 4"):
        llm.logits(ids("abcde"))
    with pytest.raises(ggufpy.GGUFError, match="nothing to start from"):
        llm.generate([])
    with pytest.raises(ggufpy.GGUFError, match="token 999"):
        llm.logits([999])


def test_small_accessors() -> None:
    with fake_llama() as llm:
        assert (llm.n_ctx(), llm.n_vocab(), llm.n_embd()) == (64, VOCAB, 8)
        assert (llm.token_bos(), llm.token_eos()) == (BOS, EOS)
        assert llm.tokenize(b"ab") == [BOS, *ids("ab")]
        assert llm.tokenize(b"a<end>", add_bos=False, special=True) == [97, EOS]
        assert llm.detokenize([BOS, 0xC3]) == b"\xc3"
        assert llm.metadata["general.architecture"] == "fake"
        engine = llm.engine
    assert engine.closed
    llm.close()
    with pytest.raises(ggufpy.GGUFError, match="closed"):
        llm.eval([1])


def test_unknown_options_raise() -> None:
    llm = fake_llama()
    with pytest.raises(TypeError, match="temprature"):
        llm.create_completion("a", temprature=1)
    with pytest.raises(TypeError, match="flavour"):
        llm.generate(ids("a"), flavour=1)
    with pytest.raises(TypeError):
        Llama("x", n_gpu=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(n_gpu_layers=-2), "n_gpu_layers is -2; it must be"),
        (LoadOptions(cache_type_k="q5_1"), "cannot be kept in 'q5_1': it can in f16, bf16, q8_0, q4_0"),
        (LoadOptions(cache_type_v="f32"), "cannot be kept in 'f32'"),
        (LoadOptions(n_parallel=0), "n_parallel is 0; it must be a whole number of at least 1"),
        (LoadOptions(n_ctx="512"), "n_ctx is '512'; it must be a whole number"),  # type: ignore[arg-type]
        (LoadOptions(n_batch=None), "n_batch is None; it must be"),  # type: ignore[arg-type]
        (LoadOptions(lookup=2.5), "lookup is 2.5; it must be"),  # type: ignore[arg-type]
        (LoadOptions(lookup=-1), "lookup"),
        (LoadOptions(draft_model="a", draft_max=0), "draft_max"),
        (LoadOptions(draft_model="a", lookup=2), "not from both"),
        (LoadOptions(n_batch=0), "n_batch"),
        (LoadOptions(n_ctx=-1), "n_ctx"),
        (LoadOptions(n_threads=0), "n_threads"),
    ],
)
def test_load_options_are_checked(options: LoadOptions, message: str) -> None:
    with pytest.raises(ggufpy.GGUFError, match=message):
        Llama.from_options("nope.gguf", options)


def test_a_seed_makes_the_sequence_of_calls_repeatable() -> None:
    def story(seed: int) -> list[str]:
        llm = fake_llama(seed=seed)
        return [
            llm("a", max_tokens=8, temperature=50.0, top_k=0, top_p=1.0, min_p=0.0)["choices"][0]["text"]
            for _ in range(2)
        ]

    first = story(7)
    assert first == story(7)
    assert first[0] != first[1]
    assert first != story(8)
    assert story(-1) != story(-1)  # as in llama.cpp: no seed


# -- completions --


def test_completion_has_openais_shape() -> None:
    before = int(time.time())
    out = fake_llama()("w", max_tokens=16, temperature=0.0)
    assert out["object"] == "text_completion"
    assert out["id"].startswith("cmpl-")
    assert out["model"] == "fake.gguf"
    assert before <= out["created"] <= time.time()
    assert out["choices"] == [{"text": "xyz", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    counts = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert out["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 0}}


def test_max_tokens_and_echo() -> None:
    llm = fake_llama()
    out = llm.create_completion("ab", max_tokens=2, temperature=0.0, echo=True, model="mine")
    assert out["choices"][0]["text"] == "abcd"
    assert out["choices"][0]["finish_reason"] == "length"
    assert out["model"] == "mine"
    assert llm.engine.held[-1] == ord("c")  # the last token is not evaluated for nothing
    for endless in (None, -1, 0):
        assert llm.create_completion(ids("t"), max_tokens=endless, temperature=0.0)["choices"][0]["text"] == "uvwxyz"


def test_streaming_gives_the_same_text_and_one_reason() -> None:
    chunks = list(fake_llama()("v", max_tokens=9, temperature=0.0, stream=True))
    assert "".join(c["choices"][0]["text"] for c in chunks) == "wxyz"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 4 + ["stop"]
    assert len({c["id"] for c in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("de", "bc"), (["xx", "d"], "bc"), ("cd", "b"), ("b", ""), (["efg", "fg"], "bcd"), ("zz", "bcdefghij")],
)
def test_stop_strings(stop: str | list[str], text: str, stream: bool) -> None:
    out = fake_llama()("a", max_tokens=9, temperature=0.0, stop=stop, stream=stream)
    if stream:
        out = list(out)
        shown = "".join(c["choices"][0]["text"] for c in out)
        reason = out[-1]["choices"][0]["finish_reason"]
    else:
        shown, reason = out["choices"][0]["text"], out["choices"][0]["finish_reason"]
    assert shown == text
    assert reason == ("length" if stop == "zz" else "stop")


def test_stop_filter_holds_back_only_a_beginning() -> None:
    stop = StopFilter(["<|end|>"])
    assert stop.push("one <") == "one "
    assert stop.push("b> <|en") == "<b> "
    assert stop.push("d|> more") == ""
    assert stop.hit
    assert stop.push("x") + stop.flush() == ""
    loose = StopFilter(["aab"])
    assert loose.push("aaa") == "a"
    assert loose.flush() == "aa"


def test_stop_strings_that_are_none() -> None:
    for none in (None, "", []):
        assert fake_llama()("x", temperature=0.0, stop=none)["choices"][0]["text"] == "yz"
    for wrong in ([""], [3]):
        with pytest.raises(ggufpy.GGUFError, match="stop"):
            fake_llama()("a", stop=wrong)


def test_characters_are_never_broken() -> None:
    order = [*"é€😀".encode(), EOS]
    follow = dict(zip([ord("a"), *order[:-1]], order, strict=True))
    # no byte comes twice in these characters, so that a table of successors is enough
    llm = fake_llama(succ=lambda token: follow[token])
    texts = [c["choices"][0]["text"] for c in llm("a", max_tokens=20, temperature=0.0, stream=True)]
    assert "".join(texts) == "é€😀"
    assert "\ufffd" not in "".join(texts)


def test_logprobs_of_a_completion() -> None:
    out = fake_llama()("a", max_tokens=3, temperature=0.0, logprobs=2)["choices"][0]["logprobs"]
    expected = 10 - np.log(np.exp(10) + VOCAB - 1)
    assert out["tokens"] == ["b", "c", "d"]
    assert out["text_offset"] == [1, 2, 3]
    assert out["token_logprobs"] == pytest.approx([expected] * 3)
    assert [len(top) for top in out["top_logprobs"]] == [2, 2, 2]
    assert out["top_logprobs"][0]["b"] == pytest.approx(expected)
    with pytest.raises(ggufpy.GGUFError, match="logprobs"):
        fake_llama()("a", logprobs=-1)


def test_chat_completion() -> None:
    llm = fake_llama()
    messages = [{"role": "user", "content": "hi"}]
    assert llm.chat_tokens(messages) == [BOS, *ids("user:hi;a")]
    out = llm.create_chat_completion(messages, max_tokens=3, temperature=0.0, logprobs=True, top_logprobs=1)
    assert out["object"] == "chat.completion"
    choice = out["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "bcd"}
    assert choice["finish_reason"] == "length"
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["b", "c", "d"]
    assert choice["logprobs"]["content"][0]["top_logprobs"][0]["bytes"] == [98]
    assert [out["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")] == [10, 3, 13]


def test_chat_messages_meet_the_template() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.role + ':' + m.content }};{% endfor %}")
    llm = Llama.from_parts(replace(parts(), template=Later(lambda: template)))
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert llm.chat_tokens(messages) == [BOS, *ids("user:a\nb;")]
    for wrong in ("hi", {"role": "user", "content": "hi"}, 5):
        with pytest.raises(ggufpy.GGUFError, match="messages must be a list"):
            llm.create_chat_completion(wrong)  # type: ignore[arg-type]


def test_chat_streams_deltas() -> None:
    chunks = list(
        fake_llama().create_chat_completion([{"role": "user", "content": "hi"}], 2, temperature=0.0, stream=True)
    )
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas == [{"role": "assistant"}, {"content": "b"}, {"content": "c"}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_chat_needs_a_template() -> None:
    with pytest.raises(ggufpy.GGUFError, match="no chat template"):
        fake_llama(template=False).create_chat_completion([{"role": "user", "content": "hi"}])


# -- what loads in the background --


def test_later_hands_over_values_and_errors() -> None:
    early = Later(lambda: 3)
    early.start()
    assert early.get() == 3
    calls: list[int] = []
    lazy = Later(lambda: calls.append(1) or 4)
    assert not calls
    assert (lazy.get(), lazy.get(), calls) == (4, 4, [1])

    def fail() -> int:
        raise ggufpy.GGUFError("bad vocabulary")

    calls.clear()

    def interrupted() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return 5

    again = Later(interrupted)
    with pytest.raises(KeyboardInterrupt):
        again.get()
    assert again.get() == 5

    for start in (True, False):
        broken = Later(fail)
        if start:
            broken.start()
        for _ in range(2):
            with pytest.raises(ggufpy.GGUFError, match="bad vocabulary"):
                broken.get()


def test_rows_without_a_token_are_never_drawn_or_listed() -> None:
    """An embedding padded with rows: `logits` shows them, text and drafts never have them."""

    def rows(held: Sequence[int]) -> np.ndarray:
        row = np.zeros(VOCAB + 6, np.float32)
        row[EOS if held[-1] == ord("z") else held[-1] + 1] = 10.0
        row[VOCAB + 3] = 30.0
        return row

    def padded(**options: Any) -> Llama:
        made = parts(rows=rows)
        made.engine.n_vocab = VOCAB + 6  # type: ignore[misc]
        return Llama.from_parts(made, options=LoadOptions(**options))

    llm = padded()
    assert (llm.n_vocab(), llm.n_known()) == (VOCAB + 6, VOCAB)
    for temp in (0.0, 0.1):
        assert list(llm.generate(ids("v"), temp=temp)) == ids("wxyz")
    assert llm.logits(ids("v"))[0].argmax() == VOCAB + 3
    choice = llm.create_completion("v", 3, logprobs=2, temperature=0.0)["choices"][0]
    assert choice["text"] == "wxy"
    assert choice["logprobs"]["token_logprobs"][0] > -0.1  # of the tokens that there are
    drafting = padded(draft_model=padded())
    made = drafting.generate(ids("a"), temp=0.0)
    assert list(made) == ids("bcdefghijklmnopqrstuvwxyz")
    assert made.accepted > 5


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_a_model_without_vocabulary_still_evaluates(kind: str | None) -> None:
    bare = parts()
    bare.file.metadata["tokenizer.ggml.model"] = kind  # type: ignore[index]
    if kind is None:
        bare.file.metadata.pop("tokenizer.ggml.model")  # type: ignore[attr-defined]
    llm = Llama.from_parts(bare)
    assert take(llm, "w", 4) == [*ids("xyz"), EOS]
