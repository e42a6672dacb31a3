"""`Llama` on small real models: adapters, hooks, threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import VOCABULARY, write_model
from test_lora import KEYS, halves

import ggufpy
from ggufpy import format as gguf
from ggufpy.generate.loading import LoadOptions

PROMPT = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf")


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    rng = np.random.default_rng(3)
    path = model.with_name("adapter.gguf")
    gguf.write(path, KEYS, halves("blk.0.ffn_down.weight", 40, 52, 4, rng))
    return path


def test_an_adapter_counts_as_much_as_is_said(model: Path, adapter: Path) -> None:
    rows = {}
    for scale in (0.0, 0.5, 1.0):
        with ggufpy.Llama(model, n_ctx=32, n_threads=1, lora_path=adapter, lora_scale=scale) as llm:
            rows[scale] = llm.logits(PROMPT)
            assert len(list(llm.generate(PROMPT, temp=0.0, limit=4))) == 4
    with ggufpy.Llama(model, n_ctx=32, n_threads=1) as llm:
        np.testing.assert_array_equal(rows[0.0], llm.logits(PROMPT))
    assert 0 < np.abs(rows[0.5] - rows[0.0]).max() < np.abs(rows[1.0] - rows[0.0]).max()


def test_each_call_says_how_much_adapters_count(model: Path, adapter: Path, tmp_path: Path) -> None:
    """Two adapters; calls of several threads with other scales are evaluated together."""
    second = tmp_path / "second.gguf"
    gguf.write(second, KEYS, halves("blk.1.attn_q.weight", 40, 40, 4, np.random.default_rng(4)))
    few: dict[str, Any] = {"n_ctx": 64, "n_threads": 1}
    asks: list[Any] = [None, {}, {str(second): 3.0}, [(0, -2.0), ("1", 1.5)], [{"id": 0, "scale": 4.0}]]
    loaded = [(2.0, 1.0), (0.0, 0.0), (0.0, 3.0), (-2.0, 1.5), (4.0, 0.0)]
    alone = []
    for scales in loaded:
        with ggufpy.Llama(model, lora_path=[adapter, second], lora_scale=scales, **few) as llm:
            alone.append(said(llm, None))
    with ggufpy.Llama(model, lora_path=[adapter, second], lora_scale=[2.0, 1.0], n_parallel=5, **few) as llm:
        assert llm.adapters == (str(adapter), str(second))
        found: list[Any] = [None] * len(asks)

        def ask(i: int) -> None:
            found[i] = said(llm, asks[i])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == alone
        assert len({str(one) for one in found}) == len(asks)
        for wrong in ({"other.gguf": 1.0}, {2: 1.0}, [5], {0: "much"}):
            with pytest.raises(ggufpy.GGUFError, match=r"lora|the scale of 0"):
                llm.adapter_scales(wrong)


def said(llm: ggufpy.Llama, lora: Any) -> list[tuple[int, float]]:
    """Tokens and the logits that they were drawn by."""
    stream = llm.generate(PROMPT, temp=0.0, limit=12, scales=llm.adapter_scales(lora))
    return [(token, float(stream.logits[token])) for token in stream]  # type: ignore[index]


def test_adapters_are_not_for_a_draft_model(model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is opened by its name has other shapes than the adapter's."""

    def opened(name: Any, options: LoadOptions, seed: int | None = None) -> ggufpy.Llama:
        raise InterruptedError(options.lora)

    monkeypatch.setattr(ggufpy.Llama, "from_options", opened)
    with pytest.raises(InterruptedError) as found:
        ggufpy.Llama(model, n_ctx=32, n_threads=1, lora_path=adapter, draft_model=model)
    assert found.value.args == ((),)


def test_adapters_that_cannot_be(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ggufpy.GGUFError, match="is no LoRA adapter"):
        ggufpy.Llama(model, lora_path=model)
    with pytest.raises(ggufpy.GGUFError, match="lora_scale is 'much'"):
        ggufpy.Llama(model, lora_path=model, lora_scale="much")  # type: ignore[arg-type]
    with pytest.raises(ggufpy.GGUFError, match="lora"):
        LoadOptions(lora=((5, 1.0),)).check()  # type: ignore[arg-type]


def test_adapters_on_the_command_line(model: Path, adapter: Path) -> None:
    from ggufpy.cli import command_parser, load_command
    from ggufpy.commands._options import load_options

    words = [str(model), "-c", "32", "--lora", str(adapter), "--lora", f"{adapter}=-0.5", "--lora", "a=b.gguf"]
    args = command_parser("run", load_command("run")).parse_args(words)
    assert args.lora == [(str(adapter), 1.0), (str(adapter), -0.5), ("a=b.gguf", 1.0)]
    args.lora = args.lora[:2]
    with ggufpy.Llama.from_options(model, load_options(args)) as llm:
        both = llm.logits(PROMPT)
    with ggufpy.Llama(model, n_ctx=32, lora_path=adapter, lora_scale=0.5) as llm:
        np.testing.assert_allclose(both, llm.logits(PROMPT), atol=2e-3 * np.ptp(both))


def test_what_has_been_read_with_another_scale_is_read_again(model: Path, adapter: Path) -> None:
    from ggufpy.runtime.request import Request

    with ggufpy.Llama(model, n_ctx=32, n_threads=1, n_parallel=2, lora_path=adapter) as llm:
        found: dict[tuple[float, ...], Any] = {}
        for scales in ((1.0,), (), (1.0,), (0.25,)):
            rows: list[Any] = []
            llm.loop.run(Request(PROMPT, take=lambda at, part, to=rows: to.append(part), reuse="any", scales=scales))
            found.setdefault(scales, rows[-1][-1])
            np.testing.assert_array_equal(found[scales], rows[-1][-1])
    assert len({row.tobytes() for row in found.values()}) == 3


def test_a_hook_sees_and_changes_activations_while_it_lasts(model: Path) -> None:
    seen: list[tuple[tuple[int, ...], list[int]]] = []

    def look(values: Any, rows: Any) -> None:
        seen.append((values.shape, rows.token.tolist()))

    with ggufpy.Llama(model, n_ctx=32, n_threads=1) as llm:
        plain = llm.logits(PROMPT)
        with llm.hook("blk.1.ffn_out", look):
            np.testing.assert_allclose(llm.logits(PROMPT), plain, atol=1e-5)
            tokens = list(llm.generate(PROMPT, temp=0.0, limit=2))
        assert seen == [((5, 40), PROMPT), ((1, 40), PROMPT[-1:]), ((1, 40), tokens[:1])]  # what is read is read once
        with llm.hook("result_norm", lambda values, rows: np.zeros_like(values)):
            assert not llm.logits(PROMPT).any()
        np.testing.assert_array_equal(llm.logits(PROMPT), plain)
        assert list(llm.generate(PROMPT, temp=0.0, limit=2)) == tokens
        with pytest.raises(ggufpy.GGUFError, match="no activation"), llm.hook("blk.9.ffn_out", look):
            pass
        assert len(seen) == 3


def test_a_hook_sees_what_an_open_text_has_read_and_leaves_nothing(model: Path) -> None:
    """Neither what was read before it nor what was read within it is taken over, from texts that go on too."""
    seen: list[int] = []
    with ggufpy.Llama(model, n_ctx=32, n_threads=1, n_parallel=2) as llm:
        plain = list(llm.generate([*PROMPT, 7], temp=0.0, limit=2))
        llm.reset()
        before = llm.generate(PROMPT, temp=0.0)
        next(before)

        def zero(values: Any, rows: Any) -> Any:
            seen.extend(rows.token.tolist())
            return np.zeros_like(values)

        with llm.hook("blk.0.attn_norm", zero):
            within = llm.generate([*PROMPT, 7], temp=0.0)
            next(within)
            assert set(seen) >= {*PROMPT, 7}
        assert list(llm.generate([*PROMPT, 7], temp=0.0, limit=2)) == plain


def test_a_model_that_is_closed_within_a_hook(model: Path) -> None:
    llm = ggufpy.Llama(model, n_ctx=32, n_threads=1)
    with llm.hook("result_norm", lambda values, rows: None):
        llm.close()
    with pytest.raises(ggufpy.GGUFError, match="closed"):
        llm.logits([1])


def test_what_a_hook_raises_ends_its_call_alone(model: Path) -> None:
    def fail(values: Any, rows: Any) -> None:
        raise RuntimeError("no")

    def use(values: Any, rows: Any) -> None:
        llm.logits([1])

    with ggufpy.Llama(model, n_ctx=32, n_threads=1) as llm:
        first = list(llm.generate(PROMPT, temp=0.0, limit=3))
        with llm.hook("blk.0.attn_norm", fail), pytest.raises(RuntimeError, match="no"):
            llm.logits(PROMPT)
        with llm.hook("blk.0.attn_norm", use), pytest.raises(ggufpy.GGUFError, match="cannot use it"):
            llm.logits(PROMPT)
        assert list(llm.generate(PROMPT, temp=0.0, limit=3)) == first


def test_threads_have_the_text_that_they_have_alone(model: Path) -> None:
    prompts = [[i, 2 * i, 7] for i in range(1, 9)]
    with ggufpy.Llama(model, n_ctx=40, n_threads=1, n_parallel=4) as llm:
        alone = [list(llm.generate(prompt, temp=0.9, seed=5, limit=20)) for prompt in prompts]
        llm.reset()
        found: dict[int, list[int]] = {}

        def work(i: int) -> None:
            found[i] = list(llm.generate(prompts[i], temp=0.9, seed=5, limit=20))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert [found[i] for i in range(8)] == alone
    assert all(0 <= token < VOCABULARY for text in alone for token in text)
