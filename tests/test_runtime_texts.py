"""Texts on tiny models of random weights against a NumPy forward pass; the same bits however they are run."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import (
    VOCABULARY,
    Text,
    compile_ahead,
    difference,
    divergence,
    encoded,
    load,
    reference,
    some_fast,
    synthetic,
    write_model,
)

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.backends.cpu.kernels.matmul_tiles import bulk_kernel
from ggufpy.backends.cpu.weights import matmul_kernel, pack_kernel
from ggufpy.errors import GGUFError
from ggufpy.quants.base import FloatPanel
from ggufpy.runtime import EngineOptions, isa_name
from ggufpy.simd.isa import Level

# Integer types hold whole numbers: nobody stores weights in them, and test_integer_tensors has them run.
TYPES = [name for name in quants.names() if name not in ("I8", "I16", "I32", "I64")]
FAST = ["F32", "F16", "Q4_0", "Q8_0", "Q4_K_M", "IQ3_S"]
PLAIN = ("F32", "F64")
TOKENS = [5, 17, 3, 3, 250, 99, 0, 319, 41]


@pytest.fixture(scope="module", autouse=True)
def _compiled(level: Level) -> None:
    types = ["F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ3_S"]
    panels = dict.fromkeys(quants.get(name).panel for name in types)
    bulk = [of for panel in panels if (of := bulk_kernel(panel, level)) is not None]
    products = [matmul_kernel(panel, tokens) for panel in panels for tokens in (1, 2, 4)]
    packs = [pack_kernel(quants.get(name)) for name in types]
    compile_ahead([(of, level) for of in (*products, *packs, *bulk)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@functools.cache
def _random(folder: Path, type_name: str) -> Any:
    """An open model of heads 4 · 64 on 2 and 256 columns, whose matrices are of a type (or the Q4_K_M mix)."""
    shapes, path = synthetic(), folder / f"{type_name}.gguf"
    shapes.write_model(path, shapes.Shape(1, 256, 256, 4, 2, 320, 400), type_name)
    return gguf.open(path)


@pytest.fixture
def tiny(folder: Path) -> Iterator[Text]:
    """A session of the default float32 model with room for 64 tokens."""
    path = folder / "tiny.gguf"
    with gguf.open(path if path.exists() else write_model(path)) as file, load(file, EngineOptions(n_threads=1)) as s:
        yield s


def logits(file: Any, tokens: list[int], **options: Any) -> Any:
    """Every token's exact logits from a fresh session."""
    with load(file, EngineOptions(**{"n_threads": 2, **options})) as session:
        return session.eval_logits(tokens, exact=True)


# -- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", some_fast([*TYPES, "Q4_K_M"], FAST))
def test_a_model_in_any_type_runs(type_name: str, folder: Path) -> None:
    file = _random(folder, type_name)
    exact, found = reference(file, TOKENS), logits(file, TOKENS)
    assert found.dtype == np.float32
    assert found.shape == (len(TOKENS), 320)
    if type_name != "Q4_K_M" and isinstance(quants.get(type_name).panel, FloatPanel):
        assert difference(exact, found) < 5e-4
    else:
        assert divergence(exact, found) < 0.002
        cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
        assert cosine.min() > 0.999


def test_the_level_in_force_is_the_one_that_runs(level: Level, tiny: Text) -> None:
    assert tiny.engine.isa == isa_name() == level.name


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one layer, heads not grouped": {"attention.head_count_kv": None, "attention.head_count": 1, "block_count": 1},
    "key and value lengths": {"attention.key_length": 24, "attention.value_length": 12},
    "partial rotation": {"rope.dimension_count": 8},
    "base": {"rope.freq_base": 500.0},
    "epsilon": {"attention.layer_norm_rms_epsilon": 0.3},
    "linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    "linear as files had it once": {"rope.scale_linear": 3.0},
    "yarn": {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 48},
    "yarn in full": {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 2.5, "rope.scaling.original_context_length": 4096,
        "rope.scaling.attn_factor": 0.7, "rope.scaling.yarn_beta_fast": 40.0, "rope.scaling.yarn_beta_slow": 3.0,
    },
    "llama3": {"rope.scaling.type": "llama3", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 40},
    "llama3 in full": {
        "rope.scaling.type": "llama3", "rope.scaling.factor": 5.0, "rope.scaling.original_context_length": 300,
        "rope.scaling.low_freq_factor": 2.0, "rope.scaling.high_freq_factor": 9.0,
    },
    "window": {"attention.sliding_window": 7},
    "a list for each layer": {"attention.head_count": [2, 2], "feed_forward_length": [52, 52]},
}  # fmt: skip


@pytest.mark.parametrize("name", some_fast(list(VARIANTS), [name for name in VARIANTS if "not grouped" not in name]))
def test_variants_of_the_architecture(name: str, tmp_path: Path) -> None:
    changes = dict(VARIANTS[name])
    lists = {key: changes.pop(key) for key in list(changes) if isinstance(changes[key], list)}
    path = write_model(tmp_path / "m", changes)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 40).tolist()
    with gguf.open(path) as file:
        exact = reference(file, tokens)
        if lists:
            keys = {**dict(file.metadata), **{f"llama.{key}": value for key, value in lists.items()}}
            gguf.write(tmp_path / "lists", keys, file.tensors)
    with gguf.open(tmp_path / "lists" if lists else path) as file:
        assert difference(exact, logits(file, tokens)) < 5e-4


def _biases(seed: int = 7) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {"attn_q": 40, "attn_k": 20, "attn_v": 20, "attn_output": 40, "ffn_gate": 52, "ffn_up": 52, "ffn_down": 40}
    return {f"blk.1.{name}.bias": rng.standard_normal(n).astype(np.float32) for name, n in sizes.items()}


TENSORS = {
    "biases": _biases(),
    "output tied to the embedding": {"output.weight": None},
    "output bias": {"output.bias": np.linspace(-2, 2, VOCABULARY, dtype=np.float32)},
    "frequency factors": {"rope_freqs.weight": np.geomspace(1, 16, 10).astype(np.float32)},
    "norm in f16": {"output_norm.weight": np.linspace(0.5, 1.5, 40).astype(np.float16)},
}


@pytest.mark.parametrize("type_name", ["F32", "F16"])
@pytest.mark.parametrize("name", TENSORS)
def test_optional_tensors(name: str, type_name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {}, TENSORS[name], type_name)
    with gguf.open(path) as file:
        tokens = list(range(20))
        assert difference(reference(file, tokens), logits(file, tokens)) < 5e-4


def test_sizes_that_fill_no_block_or_vector(tmp_path: Path) -> None:
    changes = {"embedding_length": 23, "feed_forward_length": 1, **VARIANTS["key and value lengths"]}
    for type_name in ("F16", "F32"):
        path = write_model(tmp_path / type_name, changes, type_name=type_name)
        with gguf.open(path) as file:
            assert difference(reference(file, [1, 60, 0]), logits(file, [1, 60, 0])) < 5e-4


def test_types_may_differ_from_tensor_to_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    heads = {"attention.key_length": 20, "attention.value_length": 20}
    sizes = {"embedding_length": 64, "feed_forward_length": 96, **heads}
    mixed = {
        "ffn_gate": (96, 64, "Q4_0"), "ffn_up": (96, 64, "F16"), "ffn_down": (64, 96, "Q8_0"),
        "attn_q": (40, 64, "Q8_0"), "attn_k": (20, 64, "F16"),
    }  # fmt: skip
    made = {f"blk.0.{n}.weight": encoded(rng.standard_normal((r, c)) / 8, t) for n, (r, c, t) in mixed.items()}
    with gguf.open(write_model(tmp_path / "m", sizes, made)) as file:
        assert divergence(reference(file, [1, 2, 3, 4, 5]), logits(file, [1, 2, 3, 4, 5])) < 0.002


def test_a_big_endian_file_gives_the_same_bits(tmp_path: Path, folder: Path) -> None:
    for type_name in ("Q4_0", "F16"):
        file = _random(folder, type_name)
        gguf.write(tmp_path / "big", file.metadata, file.tensors, byteorder="big")
        with gguf.open(tmp_path / "big") as big:
            np.testing.assert_array_equal(logits(big, TOKENS), logits(file, TOKENS))


# -- the same bits -----------------------------------------------------------------------------------------

LONG = np.random.default_rng(2).integers(0, 320, 150).tolist()  # more than one chunk of attention


@pytest.mark.parametrize("type_name", ["Q4_K_M", "F16"])
def test_threads_and_batches_do_not_change_a_bit(type_name: str, folder: Path) -> None:
    file = _random(folder, type_name)
    whole = logits(file, LONG, n_threads=1)
    assert np.isfinite(whole).all()
    for options in ({"n_threads": 2}, {"n_threads": 4}, {"n_batch": 1}, {"n_batch": 7}, {"n_ctx": 150}):
        np.testing.assert_array_equal(logits(file, LONG, **options), whole)
    for threads, batch in ((1, 16), (4, 1), (2, 7)):
        with load(file, EngineOptions(n_threads=threads, n_batch=batch)) as session:
            session.eval(LONG)
            np.testing.assert_array_equal(session.last_logits(), whole[-1])


@pytest.mark.parametrize("type_name", ["Q4_K_M", "F16"])
def test_prompts_in_bulk(type_name: str, folder: Path) -> None:
    """Bulk products may round activations and weights to bf16; neither threads nor batches change anything."""
    file, first = _random(folder, type_name), None
    for threads, batch in ((1, 512), (2, 512), (2, 17), (1, 49), (4, 10**12)):
        with load(file, EngineOptions(n_threads=threads, n_batch=batch)) as session:
            rows = session.eval_logits(LONG)
            session.truncate(0)
            session.eval(LONG)
            np.testing.assert_array_equal(session.last_logits(), rows[-1])
        first = rows if first is None else first
        np.testing.assert_array_equal(rows, first)
    exact, truth = logits(file, LONG), reference(file, LONG)
    assert divergence(truth, rows) <= max(divergence(truth, exact), 2e-4)
    assert divergence(exact, rows) < 1e-3


def test_repeating_gives_the_same_bits_every_time(folder: Path) -> None:
    with load(_random(folder, "Q4_0"), EngineOptions(n_threads=4, n_ctx=16)) as session:
        first = session.eval_logits(TOKENS)
        for i in range(60):
            session.truncate(0)
            if i % 2:
                np.testing.assert_array_equal(session.eval_logits(TOKENS), first)
            else:
                for token, row in zip(TOKENS, first, strict=True):
                    session.eval([token])
                    np.testing.assert_array_equal(session.last_logits(), row)


def test_a_cut_context_goes_on_like_a_fresh_one(folder: Path) -> None:
    file = _random(folder, "Q4_0")
    with load(file, EngineOptions(n_threads=2)) as session:
        session.eval(LONG[:20])
        wanted = session.eval_logits(TOKENS)
    with load(file, EngineOptions(n_threads=2)) as session:
        for start in (150, 140, 21):  # also from beyond a chunk's end back into the first
            session.truncate(0)
            session.eval(LONG[:start])
            session.truncate(20)
            assert session.n_past == 20
            np.testing.assert_array_equal(session.eval_logits(TOKENS), wanted)


def test_a_token_that_is_not_finite_spoils_no_later_one(tmp_path: Path) -> None:
    """A damaged row of the embedding: what it leaves in padding must not reach the tokens after it."""
    path = write_model(tmp_path / "m")
    with gguf.open(path) as file:
        wanted = logits(file, [1, 2, 3])
        table = file.tensors["token_embd.weight"].to_numpy()
    table[7] = np.inf
    bad = write_model(tmp_path / "bad", {}, {"token_embd.weight": table})
    with gguf.open(bad) as file, load(file, EngineOptions(n_threads=1)) as session:
        assert not np.isfinite(session.eval_logits([7, 7, 7])).any()
        session.truncate(0)
        np.testing.assert_array_equal(session.eval_logits([1, 2, 3]), wanted)


def test_two_engines_of_one_file_do_not_disturb_each_other(folder: Path) -> None:
    file = _random(folder, "Q4_0")
    with load(file, EngineOptions(n_threads=2)) as one:
        wanted = {0: one.eval_logits(LONG[:30])}
        one.truncate(0)
        wanted[1] = one.eval_logits(LONG[1:31])
    wrong: list[int] = []

    def work(i: int) -> None:
        with load(file, EngineOptions(n_threads=2, n_ctx=32)) as session:
            for _ in range(15):
                session.truncate(0)
                if not np.array_equal(session.eval_logits(LONG[i : i + 30]), wanted[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- the interface -----------------------------------------------------------------------------------------


def test_what_an_engine_says_of_itself(tiny: Text) -> None:
    engine = tiny.engine
    assert (engine.n_ctx, engine.n_vocab, engine.n_embd, engine.n_threads) == (64, VOCABULARY, 40, 1)
    assert engine.isa == isa_name()
    assert engine.type_name == "F32"
    assert engine.weight_bytes >= 4 * (VOCABULARY * 40 + 2 * 3 * 40 * 52)
    assert engine.kv_bytes >= 2 * 64 * 40 * 2
    assert engine.prompt_flops(3) == 2.0 * (VOCABULARY * 40 + 3 * 2 * (3 * 40 * 52 + 40 * 40 * 2 + 2 * 20 * 40))


def test_tokens_are_counted_and_logits_are_of_the_last(tiny: Text) -> None:
    rows = tiny.eval_logits([1, 2, 3])
    assert tiny.n_past == 3
    tiny.truncate(1)
    tiny.eval([2])
    np.testing.assert_array_equal(tiny.last_logits(), rows[1])
    some: Any = np.array([3], np.uint16)
    tiny.eval(some)
    np.testing.assert_array_equal(tiny.last_logits(), rows[2])
    assert tiny.n_past == 3


def test_no_tokens_change_nothing(tiny: Text) -> None:
    tiny.eval([1, 2])
    before = tiny.last_logits()
    tiny.eval([])
    assert tiny.eval_logits([]).shape == (0, VOCABULARY)
    assert tiny.n_past == 2
    np.testing.assert_array_equal(tiny.last_logits(), before)


@pytest.mark.parametrize(
    "tokens",
    [
        [VOCABULARY], [-1], [1, 2**31], [2**63 - 1], [2**63], [2**70], [1.0], [True], [1, True], [None], ["1"], "12", 5,
        [[1, 2]], [[1], [1, 2]], None, [float("nan")], {1: 2}, np.zeros((1, 1), int), [1, 2.5],
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["eval", "eval_logits"])
def test_tokens_that_are_none_are_refused(method: str, tokens: Any, tiny: Text) -> None:
    tiny.eval([1])
    with pytest.raises(GGUFError, match="token") as error:
        getattr(tiny, method)(tokens)
    assert "\n" not in str(error.value)
    assert tiny.n_past == 1


def test_a_full_context(tiny: Text) -> None:
    tiny.eval([1] * 63)
    for tokens in ([1, 2], [1] * 100):
        with pytest.raises(GGUFError, match="the context is full"):
            tiny.eval(tokens)
        with pytest.raises(GGUFError, match="the context is full"):
            tiny.eval_logits(tokens)
    tiny.eval([2])
    assert tiny.n_past == 64
    with pytest.raises(GGUFError, match="64 tokens and 1 more exceed 64"):
        tiny.eval([1])


@pytest.mark.parametrize("n", [-1, 3, 2**70, 1.5, "1", None, True, float("nan")])
def test_a_cut_that_is_not_a_position_is_refused(n: Any, tiny: Text) -> None:
    tiny.eval([1, 2])
    with pytest.raises(GGUFError):
        tiny.truncate(n)
    assert tiny.n_past == 2
    assert isinstance(tiny.n_past, int)


OPTIONS: dict[str, dict[str, Any]] = {
    "n_ctx": {"n_ctx": 65}, "n_ctx huge": {"n_ctx": 2**70}, "n_ctx negative": {"n_ctx": -1},
    "n_ctx float": {"n_ctx": 8.5},
    "n_batch": {"n_batch": 0}, "n_batch negative": {"n_batch": -1}, "n_batch float": {"n_batch": 1.5},
    "n_threads": {"n_threads": 0}, "n_threads many": {"n_threads": 257}, "n_threads text": {"n_threads": "many"},
    "n_threads float": {"n_threads": 1.5}, "n_threads infinite": {"n_threads": float("inf")},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range(name: str, folder: Path) -> None:
    with gguf.open(write_model(folder / "options.gguf")) as file, pytest.raises(GGUFError) as error:
        load(file, EngineOptions(**{"n_threads": 1, **OPTIONS[name]}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "257", "9" * 5000, "nan"])
def test_threads_from_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_THREADS", value)
    with pytest.raises(GGUFError, match=r"GGUFPY_THREADS is .*; it must be a whole number from 1 to 256"):
        EngineOptions().threads()
    assert EngineOptions(n_threads=3).threads() == 3
    monkeypatch.setenv("GGUFPY_THREADS", "2")
    assert EngineOptions().threads() == 2
    monkeypatch.setenv("GGUFPY_THREADS", "")
    assert EngineOptions().threads() >= 1


def test_progress_ends_at_the_total(folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    options = EngineOptions(n_threads=2, progress=lambda *call: calls.append(call))
    load(_random(folder, "Q4_0"), options).close()
    loaded = [(done, total) for stage, done, total in calls if stage == "load"]
    assert {stage for stage, _, _ in calls} <= {"compile", "load"}
    assert len({total for _, total in loaded}) == 1
    assert max(done for done, _ in loaded) == loaded[0][1]


def test_threads_end_with_the_engine(folder: Path) -> None:
    before = threading.active_count()
    session = load(_random(folder, "Q4_0"), EngineOptions(n_threads=3))
    session.eval(TOKENS)
    assert threading.active_count() == before + 2
    session.close()
    session.close()
    assert threading.active_count() == before


def test_a_failed_load_leaves_no_threads(tmp_path: Path) -> None:
    bad = encoded(np.ones((40, 64)), "Q8_0").data.copy()
    bad.view(quants.get("Q8_0").record)["d"][30] = np.nan
    sizes = {"embedding_length": 64, "attention.key_length": 20, "attention.value_length": 20}
    path = write_model(tmp_path / "m", sizes, {"blk.1.attn_q.weight": gguf.Blocks(bad, "Q8_0")})
    before = threading.active_count()
    with gguf.open(path) as file, pytest.raises(GGUFError, match=r"blk\.1\.attn_q\.weight has a scale"):
        load(file, EngineOptions(n_threads=4))
    assert threading.active_count() == before


def test_a_failing_progress_call_ends_the_load(folder: Path) -> None:
    def fail(*call: Any) -> None:
        raise RuntimeError("stop")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="stop"):
        load(_random(folder, "Q4_0"), EngineOptions(n_threads=2, progress=fail))
    assert threading.active_count() == before


def _alone(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code that may hang or crash in a process of its own."""
    start = "import sys\nfrom ggufpy import format as gguf\nfrom ggufpy.runtime import EngineOptions, load\n"
    command = [sys.executable, "-X", "faulthandler", "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_closed_engine_refuses_to_run(folder: Path) -> None:
    code = """
from ggufpy.errors import GGUFError
import faulthandler, os
faulthandler.dump_traceback_later(300, exit=True)
engine = load(gguf.open(sys.argv[1]), EngineOptions(n_threads=2))
sequence = engine.sequence()
engine.close()
try:
    engine.read(sequence, [1])
except GGUFError as error:
    print("refused:", error)
os._exit(0)
"""
    _random(folder, "Q4_0")
    done = _alone(code, folder / "Q4_0.gguf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ")
    assert len(done.stdout.splitlines()) == 1


def test_an_engine_that_is_dropped_takes_its_threads_along(folder: Path) -> None:
    code = """
import gc, threading
file = gguf.open(sys.argv[1])
for _ in range(30):
    engine = load(file, EngineOptions(n_threads=8, n_ctx=32))
    engine.read(engine.sequence(), [1, 2, 3])
    del engine
gc.collect()
print(threading.active_count())
"""
    _random(folder, "Q4_0")
    done = _alone(code, folder / "Q4_0.gguf")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timer")
def test_an_interrupt_leaves_the_sequence_in_order(folder: Path) -> None:
    code = """
import faulthandler, random, signal
import numpy as np
faulthandler.dump_traceback_later(240, exit=True)
engine = load(gguf.open(sys.argv[1]), EngineOptions(n_threads=2, n_ctx=32))
sequence = engine.sequence()

def logits(token):
    sequence.truncate(0)
    return engine.read(sequence, [token])[0]

def interrupt(*ignored):
    raise KeyboardInterrupt

wanted = [logits(t) for t in range(4)]
signal.signal(signal.SIGALRM, interrupt)
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003))
        while True:
            logits(random.randrange(4))
    except KeyboardInterrupt:
        pass
    for t in range(4):
        assert np.array_equal(logits(t), wanted[t])
engine.close()
"""
    _random(folder, "Q4_0")
    done = _alone(code, folder / "Q4_0.gguf")
    assert done.returncode == 0, done.stderr[-2000:]
