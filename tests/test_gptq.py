"""GPTQ: the solver against a reference column by column, its errors, and whole files of a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import load, some_fast
from measuring import BOS, log_softmax, write_model
from measuring import TEXT as LETTERS

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.measure.hessians import TextHessians, passes, units
from ggufpy.models.inputs import MatrixInput
from ggufpy.models.op import Weight
from ggufpy.models.ops import Attend, Embed, Heads, MatMul, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.quantizer import QuantizeOptions, gptq, quantize_file
from ggufpy.quantizer.calibrated import Spool
from ggufpy.quantizer.options import Moments
from ggufpy.runtime import EngineOptions

ABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Any, Any]:
    """Weights, and the Hessian of inputs whose columns correlate and differ in size."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns // 4, columns)) * np.exp(rng.normal(0, 0.7, columns))
    x = rng.standard_normal((4 * columns, columns // 4)) @ mix + 0.3 * rng.standard_normal((4 * columns, columns))
    hessian = (x.T @ x / len(x)).astype(np.float32)
    return (rng.standard_normal((rows, columns)) * 0.05).astype(np.float32), hessian


def reference(weights: Any, of: gptq.Factor, name: str) -> Any:
    """The paper's loop with nothing put off: every column's error goes to all later columns at once.

    Rounded weights are what `quants.dequantize` makes of blocks; those that come out decode to all of them.
    """
    block, upper = quants.get(name), of.upper
    values = np.array(block.code_values, np.uint8)
    w = np.where(of.dead, np.float32(0), weights)
    rounded, made = np.empty_like(w), {}
    for turn, column in enumerate(of.order):
        place, j = divmod(int(column), block.weights)
        part = slice(place * block.weights, (place + 1) * block.weights)
        if place not in made:
            raw = quants.quantize(w[:, part], name, of.diagonal[part])
            made[place] = raw, decoded(raw, name), block.fields(raw).codes.copy()
        _, table, codes = made[place]
        best = np.abs(table[:, :, j].astype(np.float64) - w[:, column]).argmin(axis=0)
        codes[:, j], rounded[:, column] = values[best], table[best, np.arange(len(w)), j]
        error = (w[:, column] - rounded[:, column]) / upper[turn, turn]
        w[:, of.order[turn + 1 :]] -= error[:, None] * upper[turn, turn + 1 :]
    for raw, _, codes in made.values():
        block.put_codes(block.records(raw), codes[:, None])
    found = np.concatenate([made[place][0] for place in sorted(made)], axis=1)
    np.testing.assert_array_equal(quants.dequantize(found, name), rounded)
    return found


def decoded(raw: Any, name: str) -> Any:
    """What each code would decode to in every place of the blocks (rows, bytes): (codes, rows, weights)."""
    block = quants.get(name)
    table = []
    for value in block.code_values:
        other = raw.copy()
        block.put_codes(block.records(other), np.full((len(raw), 1, block.weights), value, np.uint8))
        table.append(quants.dequantize(other, name))
    return np.array(table)


def loss(weights: Any, raw: Any, name: str, hessian: Any) -> float:
    """Σ over rows of (w - q) H (w - q)ᵀ."""
    missing = quants.dequantize(raw, name).astype(np.float64) - weights
    return float(np.einsum("ij,jk,ik->", missing, hessian.astype(np.float64), missing, optimize=True))


# -- codes ---------------------------------------------------------------------------------------------------


def test_types() -> None:
    assert gptq.able_types() == ABLE


@pytest.mark.parametrize("name", ABLE)
def test_codes_are_put_beside_scales_that_stay(name: str) -> None:
    block, rng = quants.get(name), np.random.default_rng(1)
    raw = rng.integers(0, 256, (3, 1024 // block.weights * block.nbytes), np.uint8)
    before = block.fields(raw)
    codes = rng.choice(np.array(block.code_values, np.uint8), before.codes.shape)
    block.put_codes(block.records(raw), codes.reshape(3, -1, block.weights))
    after = block.fields(raw)
    np.testing.assert_array_equal(after.codes, codes)
    np.testing.assert_array_equal(after.scale, before.scale)
    if before.minimum is not None:
        np.testing.assert_array_equal(after.minimum, before.minimum)
    written = block.fields(quants.quantize(rng.standard_normal((4, 512)), name)).codes
    assert set(np.unique(written)) <= set(block.code_values)


# -- the factor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "width"), [(1, 1), (64, 32), (100, 4), (320, 32), (512, 256)])
def test_factor(columns: int, width: int) -> None:
    hessian = problem(1, max(columns, 4))[1][:columns, :columns]
    of = gptq.factor(hessian, width, 0.1)
    damped = hessian.astype(np.float64) + 0.1 * hessian.diagonal().mean() * np.eye(columns)
    damped = damped[np.ix_(of.order, of.order)]
    fed = hessian.diagonal()[of.order].reshape(-1, width)
    assert (np.diff(fed, axis=1) <= 0).all()
    assert (np.diff(fed.sum(axis=1)) <= 1e-3).all()
    assert ((of.order // width).reshape(-1, width) == (of.order // width)[::width, None]).all()
    assert sorted(of.order) == list(range(columns))
    assert not np.tril(of.upper, -1).any()
    product = of.upper.T.astype(np.float64) @ of.upper @ damped
    np.testing.assert_allclose(product, np.eye(columns), atol=2e-4)
    np.testing.assert_array_equal(of.diagonal, hessian.diagonal())


def test_a_hessian_of_few_rows_is_damped_until_it_will_do() -> None:
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32) * np.float32(1e4)
    assert np.isfinite(gptq.factor(x.T @ x, 32, 1e-17).upper).all()
    assert gptq.factor(x.T @ x, 32, 1e-17).damping > 1e-17


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_hessian_is_refused(value: float) -> None:
    hessian = np.eye(8, dtype=np.float32)
    hessian[2, 3] = value
    with pytest.raises(GGUFError, match="not finite"):
        gptq.factor(hessian, 8)
    with pytest.raises(GGUFError, match="no sum of squares"):
        gptq.factor(np.full((8, 8), -1e6, np.float32) + np.eye(8, dtype=np.float32) * np.float32(1e6 + 1), 8)


# -- the solver ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some_fast(ABLE, ("Q3_K", "Q4_0", "Q4_K")))
def test_bytes_are_those_of_the_reference(name: str) -> None:
    """A column has one error to make up for at a time, so that no order of sums makes a difference."""
    weights, hessian = problem(5, 512, seed=2)
    upper = np.eye(512, dtype=np.float32)
    for distance, share in ((1, -0.5), (40, 0.75), (300, -1.0)):
        for j in range(512 - distance):
            if distance > 256 or j // 256 == (j + distance) // 256:
                upper[j, j + distance] = share
    diagonal = hessian.diagonal().copy()
    of = gptq.Factor(upper, diagonal, gptq.turns(diagonal, quants.get(name).weights), 0.01)
    np.testing.assert_array_equal(gptq.solve(weights, of, name), reference(weights, of, name))


@pytest.mark.parametrize("name", ["Q4_0", "Q3_K"])
def test_errors_are_those_of_the_reference(name: str) -> None:
    """Of any Hessian: with sums in another order codes part, and are as good."""
    weights, hessian = problem(12, 512, seed=4)
    of = gptq.factor(hessian, quants.get(name).weights)
    found, wanted = (loss(weights, make(weights, of, name), name, hessian) for make in (gptq.solve, reference))
    assert 0.97 < found / wanted < 1.03


@pytest.mark.parametrize("name", some_fast(ABLE, ("Q3_K", "Q4_0", "Q4_K")))
@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_outputs_is_less_than_by_rounding(name: str, seed: int) -> None:
    weights, hessian = problem(9, 512, seed)
    found = loss(weights, gptq.solve(weights, gptq.factor(hessian, quants.get(name).weights), name), name, hessian)
    for importance in (None, hessian.diagonal()):
        assert found < 0.8 * loss(weights, quants.quantize(weights, name, importance), name, hessian)


@pytest.mark.parametrize("rows", [1, 3, 257, 300])
def test_rows_stand_alone(rows: int) -> None:
    weights, hessian = problem(rows, 256)
    before, of = weights.copy(), gptq.factor(hessian, 256)
    found = gptq.solve(weights, of, "Q3_K", threads=3)
    assert found.shape == (rows, 110)
    np.testing.assert_array_equal(weights, before)
    np.testing.assert_array_equal(found, gptq.solve(weights, of, "Q3_K"))
    last = [loss(weights[-1:], raw, "Q3_K", hessian) for raw in (found[-1:], gptq.solve(weights[-1:], of, "Q3_K"))]
    assert 0.8 < last[0] / last[1] < 1.25  # sums of another order may part codes


def test_a_matrix_is_read_some_rows_at_a_time() -> None:
    """It may have billions of weights."""
    weights, hessian = problem(600, 256)
    of = gptq.factor(hessian, 256)
    seen: list[slice] = []

    class Read:
        shape = weights.shape

        def __getitem__(self, rows: slice, /) -> Any:
            seen.append(rows)
            return weights[rows]

    found = gptq.solve(Read(), of, "Q3_K", threads=2)
    assert max(len(range(*rows.indices(600))) for rows in seen) == gptq.TOGETHER
    assert sum(len(range(*rows.indices(600))) for rows in seen) == 600
    np.testing.assert_array_equal(found, gptq.solve(weights, of, "Q3_K"))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K"])
def test_columns_without_input_are_zeros(name: str) -> None:
    weights, hessian = problem(4, 256)
    dead = np.zeros(256, bool)
    dead[[0, 7, 100, 255]] = True
    hessian[dead], hessian[:, dead] = 0, 0
    of = gptq.factor(hessian, quants.get(name).weights)
    np.testing.assert_array_equal(of.dead, dead)
    found = quants.dequantize(gptq.solve(weights, of, name), name)
    step = np.abs(found).max() / 8
    assert np.abs(found[:, dead]).max() <= step  # types with minima have no exact zero
    kept = np.where(dead, 0, weights)
    assert loss(kept, gptq.solve(weights, of, name), name, hessian) < loss(
        kept, quants.quantize(kept, name), name, hessian
    )


def test_no_input_and_no_weights_at_all() -> None:
    of = gptq.factor(np.zeros((256, 256), np.float32), 256)
    raw = gptq.solve(np.ones((2, 256), np.float32), of, "Q4_K")
    np.testing.assert_array_equal(quants.dequantize(raw, "Q4_K"), 0)


def test_weights_beyond_the_types_scales_are_refused() -> None:
    with pytest.raises(GGUFError, match="too large"):
        gptq.solve(np.full((2, 32), 1e9, np.float32), gptq.factor(np.eye(32, dtype=np.float32), 32), "Q4_0")


# -- a plan in parts -----------------------------------------------------------------------------------------


def test_layers_that_share_keys_are_read_together() -> None:
    heads = Heads(1, 1, 8, 8)

    def layer(i: int, of: int) -> tuple[Any, ...]:
        own = (StoreKv(i, "k", "v", heads),) if of == i else ()
        return (*own, Attend(of, "q", "y", heads, 1.0))

    layers = tuple(layer(i, of) for i, of in enumerate((0, 1, 2, 2, 1, 5)))
    plan = Plan(8, 8, Embed(Weight("e", (8, 8)), "x"), layers, ())
    assert list(units(plan)) == [(0, 1), (1, 5), (5, 6)]


def test_passes_keep_to_their_memory() -> None:
    inputs = [MatrixInput(str(n), MatMul("x", Weight(str(n), (4, n)), "y")) for n in (10, 10, 30, 5)]
    taken = [[one.columns for one in some] for some in passes(inputs, 800)]
    assert taken == [[10, 10], [30], [5]]
    assert [len(some) for some in passes(inputs, 1 << 30)] == [4]
    assert list(passes([], 5)) == []


# -- whole files ---------------------------------------------------------------------------------------------

SIZES = {"embedding_length": 256, "feed_forward_length": 256, "attention.head_count": 4, "context_length": 64}
MATRICES = [f"blk.{i}.{name}.weight" for i in range(2) for name in
            ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embeddings lie near a plane of few dimensions, as a trained model's do."""
    rng = np.random.default_rng(3)
    few = rng.standard_normal((259, 12)) @ rng.standard_normal((12, 256)) / 4
    embedding = (few + 0.1 * rng.standard_normal((259, 256))).astype(np.float32)
    path = tmp_path_factory.mktemp("gptq") / "m.gguf"
    return write_model(path, tensors={"token_embd.weight": embedding}, changes=SIZES)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_bytes(bytes(np.random.default_rng(9).integers(97, 123, 2000).astype(np.uint8)))
    return path


def measured(text: Path, **how: Any) -> TextHessians:
    return TextHessians(text, n_ctx=64, threads=2, **how)


def logits(path: Path) -> Any:
    tokens = [BOS, *(3 + byte for byte in LETTERS[:63])]
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_ctx=64)) as session:
        return log_softmax(session.engine.read(session.engine.sequence(), tokens, "all"))


def test_a_file_by_gptq_is_nearer_to_the_model(source: Path, text: Path, tmp_path: Path) -> None:
    heard: list[Any] = []
    how = QuantizeOptions(gptq=measured(text), threads=2, pure=True, progress=lambda *a: heard.append(a))
    report = quantize_file(source, tmp_path / "gptq.gguf", "Q3_K", how)
    plain = quantize_file(source, tmp_path / "plain.gguf", "Q3_K", QuantizeOptions(threads=2, pure=True))
    assert sorted(t.name for t in report.tensors if t.gptq) == MATRICES
    assert [(t.name, t.target, t.bytes) for t in report.tensors] == [(t.name, t.target, t.bytes) for t in plain.tensors]
    assert all(0 < t.error < 0.6 for t in report.tensors if t.gptq and t.error is not None)
    assert [a[1:] for a in heard if a[0] == "calibrate"] == [(1, 2), (2, 2)]
    base = logits(source)
    divergence = [
        (np.exp(base) * (base - logits(tmp_path / f"{name}.gguf"))).sum(axis=1).mean() for name in ("gptq", "plain")
    ]
    assert divergence[0] < 0.8 * divergence[1]
    with gguf.open(tmp_path / "gptq.gguf") as one, gguf.open(tmp_path / "plain.gguf") as other:
        assert one.metadata["quantize.gptq.dataset"] == str(text)
        for name in ("token_embd.weight", "output.weight", "blk.0.attn_norm.weight"):
            np.testing.assert_array_equal(one.tensors[name].data, other.tensors[name].data)
        assert (one.tensors[MATRICES[0]].data != other.tensors[MATRICES[0]].data).any()


def test_the_solver_is_given_what_was_measured(source: Path, text: Path, tmp_path: Path) -> None:
    """The first layer's blocks follow from the Hessian alone; a pass for each input gives the same there."""
    out = tmp_path / "out.gguf"
    quantize_file(source, out, "Q4_K", QuantizeOptions(gptq=measured(text, chunks=6), threads=1, pure=True))
    kept: list[Moments] = []
    with gguf.open(source) as file:
        chunks = measured(text, chunks=6, memory=0).visit(file, lambda m: kept.append(m) or {}, lambda *a: None)  # type: ignore[func-returns-value]
        assert chunks == 6
        assert [m.names[0] for m in kept[:4]] == [
            f"blk.0.{name}.weight" for name in ("attn_q", "attn_output", "ffn_gate", "ffn_down")
        ]
        assert kept[0].names == tuple(f"blk.0.attn_{x}.weight" for x in "qkv")
        assert kept[0].hessian is not None
        np.testing.assert_array_equal(kept[0].hessian.diagonal(), kept[0].squares[0])
        weights = np.array(file.tensors["blk.0.attn_k.weight"].to_numpy())
    wanted = gptq.solve(weights, gptq.factor(kept[0].hessian, 256), "Q4_K")
    with gguf.open(out) as made:
        np.testing.assert_array_equal(made.tensors["blk.0.attn_k.weight"].little(), wanted)


def test_types_that_gptq_does_not_make_are_weighed(source: Path, text: Path, tmp_path: Path) -> None:
    how = QuantizeOptions(gptq=measured(text, chunks=3), threads=2, pure=True, tensor_types=[("attn_k", "IQ2_XS"),
                          ("token_embd|output.weight", "Q8_0")])  # fmt: skip
    report = quantize_file(source, tmp_path / "out.gguf", "Q4_0", how)
    types = {t.name: (t.target, t.gptq) for t in report.tensors}
    assert types["blk.1.attn_k.weight"] == ("IQ2_XS", False)
    assert types["blk.1.attn_q.weight"] == ("Q4_0", True)


def test_experts_are_weighed_by_their_own_squares(text: Path, tmp_path: Path) -> None:
    from engine import synthetic

    shapes, path = synthetic(), tmp_path / "moe.gguf"
    shapes.write_model(path, shapes.Shape(1, 64, 64, 2, 1, 320, 128, 4, 2), "F16")
    seen: dict[str, Moments] = {}
    with gguf.open(path) as file:
        TextHessians(text, 4, n_ctx=32).visit(
            file,
            lambda m: seen.update(dict.fromkeys(m.names, m)) or {},
            lambda *a: None,  # type: ignore[func-returns-value]
        )
    assert seen["blk.0.ffn_down_exps.weight"].hessian is None
    assert seen["blk.0.ffn_down_exps.weight"].squares.shape == (4, 64)
    assert seen["blk.0.attn_q.weight"].hessian is not None
    report = quantize_file(path, tmp_path / "out.gguf", "Q4_0", QuantizeOptions(gptq=TextHessians(text, 4, 32)))
    assert {t.name for t in report.tensors if t.gptq} == {
        f"blk.0.{name}.weight" for name in ("attn_q", "attn_k", "attn_v", "attn_output")
    }


def test_command(source: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = tmp_path / "long.txt"
    long.write_bytes(text.read_bytes())
    args = ["quantize", str(source), str(tmp_path / "o.gguf"), "Q4_K", "--gptq", "--calibration", str(long), "--json"]
    assert main([*args, "--calibration-chunks", "4", "-t", "2", "--gptq-damping", "0.05"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(t.get("gptq", False) for t in report["tensors"]) == len(MATRICES)
    assert main([*args, "--dry-run"]) == 0  # reads no text


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--gptq"], 2, "give --calibration FILE"),
        (["--calibration", "x"], 2, "--calibration is for --gptq"),
        (["--gptq-damping", "0.1"], 2, "--gptq-damping is for --gptq"),
        (["--gptq", "--calibration", "SHORT"], 1, "the text has 6 tokens"),
        (["--gptq", "--calibration", "BAD"], 1, "is not UTF-8 text"),
        (["--gptq", "--calibration", "none.txt"], 1, "cannot read the calibration text none.txt"),
        (["--gptq", "--calibration", "SHORT", "--calibration-chunks", "0"], 1, "0 chunks of a text cannot be read"),
        (["--gptq", "--calibration", "SHORT", "--gptq-damping", "0"], 1, "a damping of 0 cannot be"),
        (["--gptq", "--calibration", "SHORT", "--tensor-type", "blk=MXFP4"], 1, "GPTQ has no matrix to make"),
    ],
)
def test_what_cannot_be_done(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 4000)
    names = {"SHORT": str(tmp_path / "short.txt"), "BAD": str(tmp_path / "bad.txt")}
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(source), str(out), "Q4_K", *(names.get(arg, arg) for arg in args)]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_what_waits_to_be_written(tmp_path: Path) -> None:
    """Pieces as they come, one after the other; a full disk is one line."""
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 256, (count, 18), np.uint8) for name, count in (("a", 7), ("b", 1), ("c", 40))}
    with open(tmp_path / "room", "w+b") as file:
        spool = Spool(file)
        for name, data in rows.items():
            spool.put(name, (data[i : i + 3] for i in range(0, len(data), 3)))
        for name, data in rows.items():
            np.testing.assert_array_equal(spool.get(name), data)
        assert spool.get("d") is None

    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(GGUFError, match=r"^cannot keep what was made .* No space left on device \(TMPDIR"):
        Spool(Full()).put("a", [rows["a"]])


def test_weights_that_are_no_numbers(source: Path, text: Path, tmp_path: Path) -> None:
    with gguf.open(source) as file:
        tensors: dict[str, Any] = dict(file.tensors)
        weights = np.array(tensors["blk.0.attn_v.weight"].to_numpy())
        weights[5, 7] = np.nan
        gguf.write(tmp_path / "bad.gguf", file.metadata, {**tensors, "blk.0.attn_v.weight": weights})
    how: dict[str, Any] = {"gptq": measured(text, chunks=2), "threads": 2, "pure": True}
    with pytest.raises(GGUFError, match=r"^tensor 'blk\.0\.attn_v\.weight': the weight at \[5, 7\] is nan"):
        quantize_file(tmp_path / "bad.gguf", tmp_path / "out.gguf", "Q4_K", QuantizeOptions(**how))
    assert not (tmp_path / "out.gguf").exists()


def test_activations_that_are_no_numbers(text: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad.gguf", tensors={"blk.1.ffn_norm.weight": np.full(64, 1e30, np.float32)})
    with pytest.raises(GGUFError, match=r"'blk.1.ffn_gate.weight' is multiplied by is not finite"):
        quantize_file(bad, tmp_path / "out.gguf", "Q4_0", QuantizeOptions(gptq=TextHessians(text, 2, 64)))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.gguf"]


def test_options_are_checked(text: Path) -> None:
    with pytest.raises(GGUFError, match="what measures Hessians is wanted"):
        QuantizeOptions(gptq=3)  # type: ignore[arg-type]
    with pytest.raises(GGUFError, match="a memory of -1 bytes"):
        TextHessians(text, memory=-1)
