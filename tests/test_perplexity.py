"""Perplexity and KL divergence against NumPy, KL bases (round trips, hostile files), and `ggufpy perplexity`."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Room, Text, load, run
from measuring import BOS, BYTES, TEXT, log_softmax, write_model

from ggufpy import cli
from ggufpy import format as gguf
from ggufpy.backends.cpu.lowering import Call
from ggufpy.backends.cpu.score import LogitRows
from ggufpy.backends.cpu.tape import _filled
from ggufpy.backends.cpu.workspace import Forms, Workspace
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.jit.spec import kernel
from ggufpy.measure import klbase
from ggufpy.measure.klbase import Header, KlBase, KlBaseWriter, Scored, scored
from ggufpy.measure.perplexity import _Chunk, exponential, measure, text_tokens, windows
from ggufpy.runtime import EngineOptions
from ggufpy.simd.isa import Level

N_CTX = 24


# -- kernels -----------------------------------------------------------------------------------------------


def some_logits(count: int, columns: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 3, (count, columns)).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("columns", [1, 7, 1003])
def test_kernels(level: Level, columns: int) -> None:
    count, tick = 5, 2e-3
    logits = some_logits(count, columns)
    logits[1] = 2.5  # all alike: the first is the top
    held, stride = Room(np.pad(logits, ((0, 0), (0, 5)), constant_values=99)), 4 * (columns + 5)
    shared = {"n_rows": count, "logits_ptr": held, "logits_stride": stride}
    out = Room(np.zeros((count, 4), np.float32))
    run(kernel("log_softmax"), level, 2, **shared, n_columns=columns, out_ptr=out)
    exact, top = log_softmax(logits), logits.max(axis=1)
    total = np.exp(logits.astype(np.float64) - top[:, None]).sum(axis=1)
    np.testing.assert_array_equal(out.array[:, 0], top)
    np.testing.assert_allclose(out.array[:, 1], total, rtol=1e-6)
    np.testing.assert_array_equal(out.array[:, 2].view(np.int32), logits.argmax(axis=1))

    stats = Room(np.stack([top, np.log(total), total, 0 * top], axis=1).astype(np.float32))
    ids, values = Room(np.zeros((count, columns), np.int32)), Room(np.zeros((count, columns), np.float32))
    numbers = Room(np.zeros((count, 4), np.float32))
    run(
        kernel("likely"), level, 2, **shared, n_columns=columns, stats_ptr=stats, ids_ptr=ids, values_ptr=values,
        numbers_ptr=numbers, scratch_ptr=Room(np.zeros(2 * 128, np.uint8)), least=np.log(tick), tick=tick,
    )  # fmt: skip
    for i, p in enumerate(np.exp(exact)):
        heads, tails = numbers.array[i, :2].view(np.int32)
        np.testing.assert_array_equal(ids.array[i, :heads], np.flatnonzero(p >= tick))
        rest = np.where(p < tick, p, 0.0)
        passed = np.floor(rest.cumsum() / tick + 0.5)
        np.testing.assert_array_equal(
            ids.array[i, columns - tails :][::-1], np.flatnonzero(np.diff(passed, prepend=0.0))
        )
        np.testing.assert_allclose(numbers.array[i, 2], rest.sum(), atol=1e-6)
        places = [*range(heads), *range(columns - tails, columns)]
        np.testing.assert_array_equal(values.array[i, places], logits[i, ids.array[i, places]] - top[i])

    other = some_logits(count, columns, 1)
    starts = Room(np.arange(count + 1) * columns)
    flat = Room(np.tile(np.arange(columns, dtype=np.int32), count))
    given = [Room(x.astype(np.float32).ravel()) for x in (log_softmax(other), np.exp(log_softmax(other)))]
    found = Room(np.zeros(count, np.float32))
    run(
        kernel("divergence"), level, 2, **shared, stats_ptr=stats, starts_ptr=starts, ids_ptr=flat, values_ptr=given[0],
        weights_ptr=given[1], out_ptr=found,
    )  # fmt: skip
    wanted = (np.exp(log_softmax(other)) * (log_softmax(other) - exact)).sum(axis=1)
    np.testing.assert_allclose(found.array, wanted, atol=3e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_seen(bad: float) -> None:
    for at in (0, 20, 36):
        logits = some_logits(2, 37)
        logits[1, at] = bad
        softmax = logit_rows(logits).softmax()
        assert np.isfinite(softmax.log_sum[0])
        if bad > 0 or bad != bad:
            assert np.isnan(softmax.log_sum[1])


def logit_rows(logits: Any) -> LogitRows:
    """Rows as the engine would have them."""
    work = Workspace("head", {"logits": logits.shape[1]}, Forms(frozenset(), frozenset(), frozenset()), len(logits))
    work.rows_of("logits")[:, : logits.shape[1]] = logits

    def once(call: Call) -> None:
        library(BEST).call(call.kernel, _filled(call))

    return LogitRows(work, len(logits), logits.shape[1], 1, once)


# -- the method --------------------------------------------------------------------------------------------


def test_windows() -> None:
    tokens = list(range(100, 150))
    np.testing.assert_array_equal(windows(tokens, 16, None), np.arange(100, 148).reshape(3, 16))
    found = windows(tokens, 16, 7, chunks=2)
    assert found.shape == (2, 16)
    assert found[:, 0].tolist() == [7, 7]
    np.testing.assert_array_equal(found[1, 1:], np.arange(117, 132))
    assert len(windows(tokens, 16, 7, chunks=9)) == 3
    for count, n_ctx, match in ((31, 16, "use -c 15 or less"), (9, 8, "longer text"), (50, 7, "8 is the least")):
        with pytest.raises(GGUFError, match=match):
            windows(tokens[:count], n_ctx, None)


@pytest.mark.parametrize("most", [701.0, 1e30])
def test_a_perplexity_that_is_no_number_is_refused(most: float) -> None:
    assert exponential(np.array([699.0, 700.0]))[0] > 1e300
    with pytest.raises(GGUFError, match=r"the perplexity is e\^.*, too much for any text"):
        exponential(np.array([most, most]))


def test_scored_positions() -> None:
    """As llama-perplexity: first = n_ctx / 2, n_ctx - 1 - first of them."""
    assert scored(512) == range(256, 511)
    assert scored(9) == range(4, 8)


def test_text_tokens() -> None:
    seen = []

    def encode(text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        seen.append((text, add_special, parse_special))
        return [5, 6]

    tokenizer: Any = SimpleNamespace(encode=encode, bos=1, add_bos=True)
    assert text_tokens(tokenizer, b"ab\n\n") == [1, 5, 6]
    assert seen == [(b"ab\n", False, False)]
    tokenizer.add_bos = False
    assert text_tokens(tokenizer, b"ab") == [5, 6]


def test_the_error_of_a_perplexity() -> None:
    """e^mean, and by llama.cpp's formula sqrt((mean of squares - mean²) / (n - 1)) times that."""
    values = np.array([1.0, 2.0, 4.0])
    ppl, error = exponential(values)
    assert ppl == pytest.approx(np.exp(7 / 3))
    assert error == pytest.approx(np.sqrt((21 / 3 - (7 / 3) ** 2) / 2) * np.exp(7 / 3))
    assert exponential(values[:1])[1] == 0.0


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model, the same in Q4_0, and another with the vocabulary of the first."""
    folder = tmp_path_factory.mktemp("models")
    kinds = (("F32", 0), ("Q4_0", 0), ("F32", 1))
    return [write_model(folder / f"m{i}.gguf", *kind) for i, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def sessions(paths: list[Path]) -> Iterator[list[Text]]:
    files = [gguf.open(path) for path in paths]
    found = [load(file, EngineOptions(n_threads=2, n_ctx=N_CTX, n_batch=10)) for file in files]
    yield found
    for session, file in zip(found, files, strict=True):
        session.close()
        file.close()


def chunks_of_text(count: int) -> Any:
    return windows([BOS, *(3 + byte for byte in TEXT)], N_CTX, BOS, count)


def reference(session: Text, chunks: Any) -> tuple[Any, Any]:
    """Log-probabilities (positions, vocabulary) of all scored positions, and the tokens that came."""
    rows, targets = [], []
    for tokens in chunks:
        session.truncate(0)
        rows.append(log_softmax(session.eval_logits(tokens)[N_CTX // 2 : N_CTX - 1]))
        targets.append(tokens[N_CTX // 2 + 1 :])
    session.truncate(0)
    return np.concatenate(rows), np.concatenate(targets)


def test_perplexity(sessions: list[Text]) -> None:
    chunks, heard = chunks_of_text(5), []
    logp, targets = reference(sessions[0], chunks)
    result = measure(sessions[0].engine, chunks, report=lambda *args: heard.append(args))
    nll = -logp[np.arange(len(targets)), targets]
    assert result.ppl == pytest.approx(np.exp(nll.mean()), rel=1e-6)
    assert result.ppl_error == pytest.approx(np.exp(nll.mean()) * nll.std() / np.sqrt(len(nll) - 1), rel=1e-5)
    assert (result.tokens, result.chunks, result.divergence) == (5 * 11, 5, None)
    running = [np.exp(nll[: 11 * (i + 1)].mean()) for i in range(5)]
    assert [h[:2] for h in heard] == [(i + 1, 5) for i in range(5)]
    np.testing.assert_allclose([h[2] for h in heard], running, rtol=1e-6)


@pytest.mark.parametrize("other", [0, 1, 2])
def test_divergence(sessions: list[Text], tmp_path: Path, other: int) -> None:
    chunks, path = chunks_of_text(4), tmp_path / "a.klbase"
    with KlBaseWriter(path, Header("m", BYTES, N_CTX, 4)) as save:
        first = measure(sessions[0].engine, chunks, save=save)
    p, targets = reference(sessions[0], chunks)
    q, _ = reference(sessions[other], chunks)
    with KlBase(path) as base:
        np.testing.assert_array_equal(base.tokens(), chunks)
        base.check(chunks, BYTES)
        result = measure(sessions[other].engine, chunks, base)
    d = result.divergence
    assert d is not None
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    assert d.kld_mean == pytest.approx(kld.mean(), abs=2e-6)
    assert d.kld_median == pytest.approx(np.median(kld), abs=1e-5)
    assert d.kld_p99 == pytest.approx(np.percentile(kld, 99), abs=1e-5)
    assert d.kld_max == pytest.approx(kld.max(), abs=1e-5)
    assert d.same_top == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    assert d.ppl_base == pytest.approx(first.ppl, rel=1e-6)
    rows = np.arange(len(targets))
    gap = p[rows, targets] - q[rows, targets]
    assert d.ppl_ratio == pytest.approx(np.exp(gap.mean()), rel=1e-6)
    assert d.ppl_ratio_error == pytest.approx(np.exp(gap.mean()) * gap.std() / np.sqrt(len(gap) - 1), abs=1e-7)
    assert d.kld_mean > 0.01 if other else abs(d.kld_mean) < 1e-6


def test_logits_that_are_none_are_refused(tmp_path: Path) -> None:
    norm = np.full(64, 1e38, np.float32)
    path = write_model(tmp_path / "bad.gguf", tensors={"output_norm.weight": norm})
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=1, n_ctx=N_CTX)) as session:
        with pytest.raises(GGUFError, match="logits are not finite numbers"):
            measure(session.engine, chunks_of_text(2))
        assert session.engine.free_pages == 1


# -- bases -------------------------------------------------------------------------------------------------


def write_base(path: Path, logits: Any, vocabulary: int, model: str = "m") -> None:
    """A base of one chunk whose scored positions have these logits; the token that comes is always 3."""
    n_ctx = 2 * len(logits) + 2
    assert len(scored(n_ctx)) == len(logits)
    chunk = _Chunk(np.full(len(logits), 3), None, keep=True)
    chunk.take(0, logit_rows(logits))
    with KlBaseWriter(path, Header(model, vocabulary, n_ctx, 1)) as save:
        save.add(np.arange(n_ctx) % vocabulary, chunk.scores())


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0])
def test_storing_changes_a_divergence_by_little(tmp_path: Path, spread: float) -> None:
    """Long tails, as language models have them: the mean over positions is within 1e-4 nats, or a hundredth."""
    rng, count, vocabulary = np.random.default_rng(7), 64, 20_000
    logits = -1.1 * np.log(np.arange(1, vocabulary + 1)) * rng.uniform(0.9, 1.6, (count, 1))
    logits = (rng.permuted(logits, axis=1) + rng.normal(0, 0.5, logits.shape)).astype(np.float32)
    other = (logits + rng.normal(0, spread, logits.shape)).astype(np.float32)
    write_base(tmp_path / "a", logits, vocabulary)
    with KlBase(tmp_path / "a") as base:
        chunk = base.chunk(0)
    rows = logit_rows(other)
    found = rows.divergence(rows.softmax(), *chunk.rows(0, count)) - chunk.excess
    p, q = log_softmax(logits), log_softmax(other)
    exact = (np.exp(p) * (p - q)).sum(axis=1)
    assert abs(found.mean() - exact.mean()) < max(1e-4, 0.01 * exact.mean())
    assert np.abs(found - exact).max() < 0.02 * spread
    np.testing.assert_allclose(chunk.nll, -p[:, 3], rtol=1e-5)
    np.testing.assert_array_equal(chunk.top, p.argmax(axis=1))
    assert (tmp_path / "a").stat().st_size < 2 * logits.size / 8  # an eighth of 16 bits a token


@pytest.mark.parametrize("vocabulary", [1, 2, 300, 5000])
def test_ids_of_any_gaps(vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    lists = [np.flatnonzero(rng.random(vocabulary) < share) for share in (0, 1, 0.5, 0.01, 0.001, 0, 1)]
    lists += [np.array([vocabulary - 1]), np.array([], int)]
    counts = np.array([len(ids) for ids in lists])
    ids = np.concatenate(lists)
    packed = klbase._gaps(ids, counts)
    np.testing.assert_array_equal(klbase._ids(packed, counts), ids)
    with pytest.raises(ValueError, match="gaps"):
        klbase._ids(packed[:-1], counts)


def test_a_base_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    scores = Scored(*(np.zeros(0),) * 3, None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 positions"), KlBaseWriter(path, Header("m", 9, 8, 1)) as save:
        save.add(np.zeros(8, np.int64), scores)
    with pytest.raises(GGUFError, match="1 of its chunks are missing"), KlBaseWriter(path, Header("m", 9, 8, 1)):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GGUFError, match="cannot write"):
        KlBaseWriter(tmp_path / "no" / "a", Header("m", 9, 8, 1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("base") / "a"
    write_base(path, some_logits(3, 400), 400)
    return path.read_bytes()


def use(path: Path) -> None:
    with KlBase(path) as base:
        base.chunk(0)


def test_damaged_bases(small: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "a", np.random.default_rng(0)
    for count in range(len(small)):
        if count < 300 or count % 37 == 0:
            path.write_bytes(small[:count])
            with pytest.raises(GGUFError, match="no usable KL base"):
                use(path)
    path.write_bytes(small + b"\0")
    with pytest.raises(GGUFError, match="1 bytes follow"):
        use(path)
    for at in rng.integers(0, len(small), 300):
        changed = bytearray(small)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(GGUFError, match="no usable KL base"):
            use(path)
    path.unlink()
    with pytest.raises(GGUFError, match="cannot read the KL base"):
        KlBase(path)


def parts_of(small: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload."""
    (length,) = struct.unpack_from("<I", small, 12)
    return json.loads(small[20 : 20 + length]), small[20 + length + 8 :]


def rebuilt(header: Any, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    record = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    return klbase.MAGIC + struct.pack("<III", klbase.VERSION, len(text), zlib.crc32(text)) + text + record


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h | {"n_ctx": 0}, "n_ctx is not a number"),
        (lambda h: h | {"n_ctx": 1}, "its chunks have 1 tokens"),
        (lambda h: h | {"vocabulary": 1 << 30}, "vocabulary is not a number"),
        (lambda h: h | {"chunks": True}, "chunks is not a number"),
        (lambda h: h | {"chunks": 2}, "ends too early"),
        (lambda h: h | {"least": 2.0}, "value that cannot be"),
        (lambda h: h | {"model": 3}, "value that cannot be"),
        (lambda h: h | {"more": 3}, "other fields"),
        (lambda h: list(h), "other fields"),
        (lambda h: b"{", "no JSON"),
        (lambda h: b"[" * 50_000, "no JSON|other fields"),
        (lambda h: b"\xff\xfe", "no JSON"),
        (lambda h: b" " * 70_000, "70000 bytes"),
        (lambda h: h | {"n_ctx": 1 << 24}, "a length that cannot be"),
        (lambda h: h | {"vocabulary": 5}, "cannot be"),
    ],
)
def test_hostile_headers(small: bytes, tmp_path: Path, change: Callable[[Any], Any], match: str) -> None:
    header, payload = parts_of(small)
    path = tmp_path / "a"
    path.write_bytes(rebuilt(change(header), payload))
    with pytest.raises(GGUFError, match=match):
        use(path)


def test_hostile_chunks(small: bytes, tmp_path: Path) -> None:
    """Whatever a chunk says, what comes of it can be handed to kernels, or there is one error."""
    header, payload = parts_of(small)
    path, rng, refused = tmp_path / "a", np.random.default_rng(1), 0
    words = [0, 1, -1, 399, 400, 1 << 30, -(1 << 31), 0x7F800000, 0x7FC00000]
    rows = logit_rows(some_logits(3, 400))
    for at in [*range(0, 124, 4), *rng.integers(124, len(payload), 200)]:
        changed = bytearray(payload)
        if at % 4 == 0:
            struct.pack_into("<i", changed, at, words[rng.integers(len(words))]) if at + 4 <= len(changed) else None
        else:
            changed[at] = rng.integers(256)
        path.write_bytes(rebuilt(header, bytes(changed[: len(changed) - int(rng.integers(2))])))
        try:
            with KlBase(path) as base:
                chunk = base.chunk(0)
        except GGUFError:
            refused += 1
            continue
        assert np.isfinite(rows.divergence(rows.softmax(), *chunk.rows(0, 3))).all()
    assert refused > 50


# -- the command -------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = cli.main(["perplexity", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_command(paths: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, base = tmp_path / "text", tmp_path / "base"
    text.write_bytes(TEXT + b"\n")
    shared = ["-c", str(N_CTX), "-t", "2", "-b", "10"]
    status, out, err = command(capsys, paths[0], "-f", text, *shared, "--json", "--save-kl-base", base)
    first = json.loads(out.splitlines()[-1])
    assert status == 0
    assert err.startswith("[1]")
    assert first["tokens"] == (len(TEXT) + 1) // N_CTX * 11
    assert first["kld_mean"] is None
    status, out, _ = command(capsys, paths[1], *shared[2:], "--kl-base", base, "--json")  # tokens and -c from the base
    second = json.loads(out.splitlines()[-1])
    assert status == 0
    assert second["ppl_base"] == pytest.approx(first["ppl"], rel=1e-6)
    assert 0 < second["kld_mean"] < second["kld_p99"] <= second["kld_max"]
    assert second["same_top"] > 0.5
    status, out, _ = command(capsys, paths[0], *shared, "--kl-base", base)  # what is left of nothing has no sign
    assert re.search(r"KL divergence      0\.000000 ± 0\.000000 nats  \(median 0\.000000, 99 % 0\.0000", out)
    status, out, _ = command(capsys, paths[1], *shared, "-f", text, "--kl-base", base, "--chunks", "2")
    assert status == 0
    for word in ("perplexity  ", "perplexity ratio", "KL divergence", "same top token", "2 chunks of 24"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "status", "match"),
    [
        (["-c", "24"], 2, "no text: give -f TEXT"),
        (["-f", "text", "--chunks", "0"], 2, "--chunks 0"),
        (["-f", "text", "-c", "7"], 2, "7 is too small"),
        (["-f", "nothing", "-c", "24"], 1, "No such file"),
        (["-f", "empty", "-c", "24"], 1, "no text in it"),
        (["-f", "binary", "-c", "24"], 1, "not UTF-8 text (byte 1)"),
        (["-f", "text", "-c", "60"], 1, "want at least 120"),
        (["-f", "text", "-c", "65"], 1, "a context of 65 was asked for"),
        (["-f", "text", "--kl-base", "nothing"], 1, "cannot read the KL base"),
        (["-f", "text", "--kl-base", "text"], 1, "no usable KL base"),
        (["-f", "text", "--kl-base", "base", "-c", "32"], 1, "use -c 24"),
        (["-f", "text", "--kl-base", "base", "--chunks", "99"], 1, "--chunks 3 or fewer"),
        (["-f", "long", "--kl-base", "base"], 1, "chunk 1 of the text is not the one"),
        (["-f", "text", "-c", "24", "--save-kl-base", "no/such"], 1, "there is no folder"),
        (["-f", "text", "-c", "24", "--save-kl-base", "./text"], 1, "is the file that is being read"),
        (["--kl-base", "others"], 1, "is of a vocabulary of 400 tokens ('m'), the model's has 259"),
    ],
)
def test_errors(
    paths: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    small: bytes, words: list[str], status: int, match: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    files = {"text": TEXT[:80], "long": TEXT[1:], "empty": b" \n", "binary": b"a\xff", "others": small}
    for name, data in files.items():
        Path(name).write_bytes(data)
    if "base" in words:
        given = ["-f", "text", "-c", "24", "-t", "1", "--save-kl-base", "base"]
        assert command(capsys, paths[0], *given)[0] == 0
    found, out, err = command(capsys, paths[0], *words, "-t", "1")
    assert (found, out) == (status, "")
    assert match in err
    assert len(err.strip().splitlines()) == 1
