"""The GPU that is the CPU: it computes what a device computes, and does not let pass what a device would not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_shim import ORDERS, ShimDevice, ShimError
from numpy.typing import NDArray

from ggufpy.backends.gpu import source
from ggufpy.backends.gpu.device import ROW, Launch, Product
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.errors import GGUFError

Arrays = list[NDArray[Any]]
Run = Callable[..., Arrays]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Kernels of a test's own, by name."""
    own: dict[str, str] = {}
    read = source._read
    monkeypatch.setattr(source, "_read", lambda name: own[name] if name in own else read(name))
    source.text.cache_clear()
    yield own
    source.text.cache_clear()


@pytest.fixture
def run(sources: dict[str, str], strict_gpu: ShimDevice) -> Run:
    """Runs the body of a kernel on arrays, which are its arguments x0, x1, ... and come back as it left them."""

    def ran(
        body: str, *arrays: NDArray[Any], threads: int = 64, grid: int = 1, shared: int = 0, before: str = "",
        values: Mapping[str, int] | None = None, device: ShimDevice | None = None,
    ) -> Arrays:  # fmt: skip
        kinds = {"f": "float", "i": "int", "u": "unsigned", "e": "__half", "b": "signed char", "B": "unsigned char"}
        kinds |= {"H": "unsigned short", "I": "unsigned"}
        args = [(f"x{i}", f"{kinds[array.dtype.char]}*") for i, array in enumerate(arrays)]
        args += [(name, "int") for name in values or {}]
        sources["own.cu"] = f'#include "common.cuh"\n{before}\nKERNEL(own) {{\n{body}\n}}\n'
        source.text.cache_clear()
        device = device or strict_gpu
        spec = KernelSpec("own", tuple(args), threads=threads)
        memory = [device.allocate(array.nbytes, "an array") for array in arrays]
        for each, array in zip(memory, arrays, strict=True):
            device.upload(each.address, array)
        record = spec.record({f"x{i}": each.address for i, each in enumerate(memory)} | dict(values or {}))
        device.run([Launch(spec, record, (grid, 1, 1), threads, shared)])
        outs = [np.empty_like(array) for array in arrays]
        for each, out in zip(memory, outs, strict=True):
            device.download(each.address, out)
            each.close()
        return outs

    return ran


RANDOM = np.random.default_rng(0)


def test_a_block_sums_over_warps_and_shared_memory(run: Run) -> None:
    x = RANDOM.standard_normal((5, 96)).astype("f4")
    body = """
        __shared__ float sums[THREADS / WARP];
        extern __shared__ float rows[];
        int at = blockIdx.x * THREADS + threadIdx.x;
        float sum = warp_sum(a.x0[at]);
        rows[threadIdx.x] = a.x0[at];
        if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
        __syncthreads();
        sum = 0;
        for (int i = 0; i < THREADS / WARP; i++) sum += sums[i];
        a.x1[at] = sum + rows[(threadIdx.x + 1) % THREADS];
    """
    y = run(body, x, np.zeros_like(x), threads=96, grid=5, shared=4 * 96)[1]
    np.testing.assert_allclose(y, x.sum(1, keepdims=True) + np.roll(x, -1, 1), rtol=1e-5, atol=1e-5)


def test_lanes_shuffle_and_vote(run: Run) -> None:
    x = RANDOM.integers(-1000, 1000, 32).astype("i4")
    body = """
        int lane = threadIdx.x, x = a.x0[lane];
        int out[] = {__shfl_sync(FULL, x, 3), __shfl_sync(FULL, x, lane + 1, 8), __shfl_xor_sync(FULL, x, 5),
                     __shfl_xor_sync(FULL, x, 12, 8), __shfl_down_sync(FULL, x, 4), __shfl_down_sync(FULL, x, 3, 8),
                     __shfl_up_sync(FULL, x, 4), __shfl_up_sync(FULL, x, 3, 16), (int)__ballot_sync(FULL, x > 0),
                     __any_sync(FULL, x == a.x0[7]), __all_sync(FULL, x > 0), 0};
        if (lane % 2) out[11] = __shfl_sync(0xaaaaaaaau, x, 1) + __popc(__ballot_sync(0xaaaaaaaau, 1));
        for (int i = 0; i < 12; i++) a.x1[i * 32 + lane] = out[i];
    """
    out = run(body, x, np.zeros((12, 32), "i4"), threads=32)[1]
    lane = np.arange(32)
    wanted = [
        np.full(32, x[3]), x[lane & ~7 | (lane + 1) & 7], x[lane ^ 5],
        np.where((lane ^ 12) <= (lane | 7), x[lane ^ 12], x),
        x[np.where(lane + 4 < 32, lane + 4, lane)], x[np.where((lane & 7) + 3 < 8, (lane + 3) % 32, lane)],
        x[np.where(lane >= 4, lane - 4, lane)], x[np.where((lane & 15) >= 3, lane - 3, lane)],
        np.full(32, np.sum((x > 0).astype("u4") << lane.astype("u4"), dtype="u4").view("i4")),
        np.ones(32), np.zeros(32), np.where(lane % 2, x[1] + 16, 0),
    ]  # fmt: skip
    np.testing.assert_array_equal(out, np.stack(wanted))


def test_dot_products_of_bytes(run: Run) -> None:
    bits = RANDOM.integers(0, 2**32, (3, 64), dtype="u4")
    bits[:2, :4] = [[0x80808080, 0x7F7F7F7F, 0xFFFFFFFF, 0]] * 2
    body = """
        unsigned x = a.x0[threadIdx.x], y = a.x0[THREADS + threadIdx.x], z = a.x0[2 * THREADS + threadIdx.x];
        a.x1[threadIdx.x] = __dp4a((int)x, (int)y, (int)z);
        a.x1[THREADS + threadIdx.x] = __dp4a(x, y, z);
        a.x1[2 * THREADS + threadIdx.x] = shim_dp4a_us(x, (int)y, (int)z);
        a.x1[3 * THREADS + threadIdx.x] = shim_dp4a_su((int)x, y, (int)z);
    """
    out = run(body, bits, np.zeros((4, 64), "u4"))[1]
    x, y, z = bits
    for made, left, right in zip(out, "bBBb", "bBbB", strict=True):
        products = x.view(left).astype("i8") * y.view(right)
        np.testing.assert_array_equal(made, (products.reshape(-1, 4).sum(1) + z).astype("u8") % 2**32)


def test_bytes_and_bits(run: Run) -> None:
    x, y, z = RANDOM.integers(0, 2**32, (3, 64), dtype="u4")
    body = """
        unsigned x = a.x0[threadIdx.x], y = a.x1[threadIdx.x], z = a.x2[threadIdx.x];
        unsigned out[] = {__byte_perm(x, y, z), __vsubss4(x, y), __vadd4(x, y), __funnelshift_r(x, y, z), __brev(x),
                          (unsigned)__clz(x >> 9), __vcmpeq4(x & 0x01010101u, y & 0x01010101u)};
        for (int i = 0; i < 7; i++) a.x3[i * 64 + threadIdx.x] = out[i];
    """
    out = run(body, x, y, z, np.zeros((7, 64), "u4"))[3]
    both = np.concatenate([x.view("u1").reshape(-1, 4), y.view("u1").reshape(-1, 4)], 1)
    nibbles = z[:, None] >> np.arange(0, 16, 4).astype("u4") & 15
    chosen = np.take_along_axis(both, (nibbles & 7).astype("i8"), 1)
    chosen = np.where(nibbles & 8, np.where(chosen & 128, 255, 0), chosen).astype("u1")
    np.testing.assert_array_equal(out[0], chosen.view("u4")[:, 0])
    apart = np.clip(x.view("i1").astype(int) - y.view("i1"), -128, 127).astype("i1")
    np.testing.assert_array_equal(out[1], apart.view("u4"))
    np.testing.assert_array_equal(out[2], (x.view("u1") + y.view("u1")).view("u4"))
    wide = (y.astype("u8") << np.uint64(32) | x) >> (z & 31).astype("u8")
    np.testing.assert_array_equal(out[3], wide.astype("u4"))
    assert [f"{v:032b}"[::-1] for v in x.tolist()] == [f"{v:032b}" for v in out[4].tolist()]
    assert [32 - (v >> 9).bit_length() for v in x.tolist()] == out[5].tolist()
    same = ((x & 0x01010101).view("u1") == (y & 0x01010101).view("u1")) * np.uint8(255)
    np.testing.assert_array_equal(out[6], same.view("u4"))


def _floats() -> NDArray[np.float32]:
    """Special values, all ties between halves, and random bits."""
    halves = np.arange(0x7C00, dtype="u2").view("f2").astype("f8")
    ties = ((halves[:-1] + halves[1:]) / 2).astype("f4")
    near = [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))]
    special = np.array([0, 65504, 65519.99, 65520, 1e6, np.inf, 2**-24, 2**-25, 2**-26, 2**-14, 1e-40], "f4")
    some = RANDOM.integers(0, 2**32, 4096, dtype="u4").view("f4")
    return np.concatenate([*near, special, -special, -ties, some[~np.isnan(some)]])


def test_halves_are_rounded_as_ieee_says(run: Run) -> None:
    x = _floats()
    body = """
        for (int i = blockIdx.x * THREADS + threadIdx.x; i < a.n; i += THREADS * gridDim.x) {
            a.x1[i] = __float2half_rn(a.x0[i]);
            a.x2[i] = __half_as_ushort(__float22half2_rn(make_float2(0.0f, a.x0[i])).y);
            a.x3[i] = __bfloat16_as_ushort(__float2bfloat16_rn(a.x0[i]));
        }
    """
    n = len(x)
    device = ShimDevice()
    made = run(body, x, np.zeros(n, "f2"), np.zeros(n, "u2"), np.zeros(n, "u2"), grid=3, values={"n": n}, device=device)
    with np.errstate(over="ignore"):
        wanted = x.astype("f2")
    np.testing.assert_array_equal(made[1].view("u2"), wanted.view("u2"))
    np.testing.assert_array_equal(made[2], wanted.view("u2"))
    bits = x.view("u4").astype("u8")
    np.testing.assert_array_equal(made[3], (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16))


def test_every_half_becomes_its_float(run: Run) -> None:
    every = np.arange(1 << 16, dtype="u2")
    body = """
        for (int i = threadIdx.x; i < 65536; i += THREADS) {
            a.x1[i] = __half2float(a.x0[i]);
            a.x2[i] = __bfloat162float(__ushort_as_bfloat16(__half_as_ushort(a.x0[i])));
        }
    """
    zeros = np.zeros(1 << 16, "f4")
    _, floats, bfloats = run(body, every.view("f2"), zeros, zeros, device=ShimDevice())
    np.testing.assert_array_equal(floats, every.view("f2").astype("f4"))
    np.testing.assert_array_equal(bfloats.view("u4"), every.astype("u4") << 16)


def test_half_arithmetic_rounds_once(run: Run) -> None:
    x, y, z = RANDOM.integers(0, 0xFFFF, (3, 4096), dtype="u2").view("f2")
    body = """
        for (int i = threadIdx.x; i < 4096; i += THREADS) {
            __half x = a.x0[i], y = a.x1[i];
            __half out[] = {__hadd(x, y), x * y, x / y, __hfma(x, y, a.x2[i])};
            for (int j = 0; j < 4; j++) a.x3[j * 4096 + i] = out[j];
        }
    """
    sums, products, ratios, fused = run(body, x, y, z, np.zeros((4, 4096), "f2"), device=ShimDevice())[3]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(sums, x + y)
        np.testing.assert_array_equal(products, x * y)
        np.testing.assert_array_equal(ratios, x / y)
        exact = x.astype("f8") * y.astype("f8") + z.astype("f8")
        np.testing.assert_array_equal(fused, exact.astype("f2"))


def _fragments(matrix: NDArray[Any], wide: int) -> NDArray[np.uint32]:
    """Registers [lane][i] that hold a (rows, k) matrix: lane / 4 is the row of 8, lane % 4 the place along k."""
    rows, k = matrix.shape
    words = np.ascontiguousarray(matrix).view("u4")  # (rows, k / wide)
    parts = [
        words[row : row + 8, at : at + 4].reshape(32) for at in range(0, k // wide, 4) for row in range(0, rows, 8)
    ]
    return np.stack(parts, 1)


@pytest.mark.parametrize(
    ("name", "dtype", "k"),
    [("m16n8k16_f16", "f2", 16), ("m16n8k8_f16", "f2", 8), ("m16n8k16_bf16", "bf", 16), ("m16n8k32_s8", "i1", 32),
     ("m16n8k16_s8", "i1", 16)],
)  # fmt: skip
def test_tensor_cores_multiply(run: Run, name: str, dtype: str, k: int) -> None:
    x, y = RANDOM.standard_normal((16, k)), RANDOM.standard_normal((8, k))
    if dtype == "i1":
        left, right = (RANDOM.integers(-128, 128, each.shape).astype("i1") for each in (x, y))
        x, y = left.astype("f8"), right.astype("f8")
    elif dtype == "f2":
        left, right = x.astype("f2"), y.astype("f2")
        x, y = left.astype("f8"), right.astype("f8")
    else:
        left, right = ((each.astype("f4").view("u4") >> 16).astype("u2") for each in (x, y))
        x, y = ((each.astype("u4") << 16).view("f4").astype("f8") for each in (left, right))
    number = "int" if dtype == "i1" else "float"
    added = RANDOM.integers(-100, 100, (16, 8)).astype("i4" if dtype == "i1" else "f4")
    body = f"""
        int lane = threadIdx.x;
        unsigned left[4], right[2];
        for (int i = 0; i < a.registers; i++) left[i] = a.x0[lane * a.registers + i];
        for (int i = 0; i < a.registers / 2; i++) right[i] = a.x1[lane * a.registers / 2 + i];
        {number} d[4];
        for (int i = 0; i < 4; i++) d[i] = a.x2[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
        shim_mma_{name}(d, left, right);
        for (int i = 0; i < 4; i++) a.x2[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
    """
    wide = 4 // left.itemsize
    a, b = _fragments(left, wide), _fragments(right, wide)
    d = run(body, a, b, added, threads=32, values={"registers": a.shape[1]})[2]
    np.testing.assert_allclose(d, x @ y.T + added, rtol=0 if dtype == "i1" else 1e-5, atol=0 if dtype == "i1" else 1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_ldmatrix_spreads_rows_over_lanes(run: Run, turned: bool) -> None:
    rows = RANDOM.integers(0, 2**16, (32, 8)).astype("u2")
    body = f"""
        __shared__ __align__(16) unsigned short rows[32 * 8];
        for (int i = threadIdx.x; i < 256; i += 32) rows[i] = a.x0[i];
        __syncwarp();
        unsigned r[4];
        shim_ldmatrix_x4{"_trans" if turned else ""}(r, rows + threadIdx.x * 8);
        for (int i = 0; i < 4; i++) a.x1[threadIdx.x * 4 + i] = r[i];
    """
    made = run(body, rows, np.zeros((32, 4), "u4"), threads=32)[1]
    each = rows.reshape(4, 8, 8)
    np.testing.assert_array_equal(made, _fragments((each.transpose(0, 2, 1) if turned else each).reshape(32, 8), 2))


RACES = {  # body: what is said of it
    "s[x] = x; a.x0[x] = s[(x + 32) % THREADS];": "which were (written|read) .* no __syncthreads between",
    "s[x] = x; a.x0[x] = s[x ^ 1];": "which were (written|read) .* no __syncwarp between",
    "s[x] = x; __shfl_sync(FULL, 1, 0); a.x0[x] = s[x ^ 1];": "no __syncwarp between",
    "if (x < 32) s[x] = a.x0[x + 32]; else a.x0[x] = 1;": "a race: (writes|reads) 4 bytes",
    "a.x0[0] = x;": "writes 4 bytes .* which were written",
    "if (x == 0) a.x0[0] = a.x0[0] + blockIdx.x;": "by another block",
    "if (x == 0) a.x0[0] = 1; else atomicAdd(a.x0, 1);": "writes 4 bytes .* which were written",
    "if (x == 3) atomicAdd(a.x0, 1); else a.x0[x] = a.x0[x % 4];": "a race",
}


def _cases(table: Mapping[str, str]) -> str:
    """The body of a kernel that does what its argument `which` says."""
    cases = [f"case {i}: {{\n{body}\n}} break;" for i, body in enumerate(table)]
    return "\n".join(["int x = threadIdx.x;", "switch (a.which) {", *cases, "}"])


@pytest.mark.parametrize("body", RACES)
def test_races_are_found(run: Run, body: str) -> None:
    values = {"which": list(RACES).index(body)}
    with pytest.raises(ShimError, match=RACES[body]) as caught:
        run("__shared__ int s[THREADS];\n" + _cases(RACES), np.zeros(64, "i4"), grid=2, values=values)
    assert f": {body}" in str(caught.value)  # the line of source


def test_what_is_ordered_is_no_race(run: Run) -> None:
    body = """
        __shared__ int s[THREADS];
        __shared__ bool is_last;
        s[threadIdx.x] = threadIdx.x;
        __syncwarp();
        int sum = s[threadIdx.x ^ 1];
        __syncthreads();
        s[THREADS - 1 - threadIdx.x] = sum;
        a.x0[blockIdx.x * THREADS + threadIdx.x] = sum;
        __threadfence();
        if (threadIdx.x == 0) is_last = atomicInc((unsigned*)a.x1, gridDim.x - 1) == gridDim.x - 1;
        __syncthreads();
        if (is_last)
            for (int i = 0; i < (int)gridDim.x; i++) atomicAdd(&a.x2[threadIdx.x], a.x0[i * THREADS + threadIdx.x]);
    """
    out = run(body, np.zeros(256, "i4"), np.zeros(1, "i4"), np.zeros(64, "i4"), grid=4)
    np.testing.assert_array_equal(out[2], 4 * (np.arange(64) ^ 1))
    assert out[1][0] == 0


def test_a_missing_barrier_shows_in_an_order_of_threads(run: Run) -> None:
    """Also where loads and stores are not looked at: what is read too early is a NaN."""
    body = """
        __shared__ float s[THREADS];
        s[threadIdx.x] = threadIdx.x;
        a.x0[threadIdx.x] = s[(threadIdx.x + 7) % THREADS];
    """
    for order in ORDERS:
        out = run(body, np.zeros(64, "f4"), device=ShimDevice(order=order, seed=3, strict=False))[0]
        assert np.isnan(out).any()


WRONG = {  # body: what is said of it, strict or not
    "if (x < 40) __syncthreads();": "__syncthreads at line .*40 of 64 threads came, 24 have ended",
    "if (x < 40) {\n__syncthreads(); } else {\n__syncthreads(); }": "at the one at line",
    "if (x < 40) return; __shfl_sync(FULL, 1, 0);": "waits for lanes 0xff .*some have ended",
    "if (x < 40) __syncthreads(); else __syncwarp();": "waits for lanes 0xff of",
    "if (x % 2) __shfl_sync(FULL, 1, 0); else __ballot_sync(FULL, 1);": "but lane .* at __",
    "__shfl_sync(1u, 1, 0);": "is not in its mask 0x1",
    "if (x < 3) __shfl_sync(FULL >> 29 - x % 2, 1, 0);": "with mask|waits for",
    "int4 v = *(const int4*)(a.x0 + 4 * x + 1); a.x0[4 * x + 1] = v.x;": "not aligned",
    "a.x0[a.n + x] = 1;": "wrote behind 1024 bytes of device memory",
    "a.x0[-1 - x] = x;": "wrote before 1024 bytes",
    "extern __shared__ float d[]; d[x + 1] = 1;": "behind its 256 bytes of dynamic shared",
    "float* d = 0; *d = 1;": "not aligned for what is there, or null",
    "a.x0[1ll << 40] = 1;": "where there is none",
    "__shfl_xor_sync(FULL, 1.0f, 32);": "by 32 lanes",
    "unsigned r[4]; shim_ldmatrix_x4(r, a.x0 + x);": "no multiple of 16 bytes",
}


@pytest.mark.parametrize("body", WRONG)
@pytest.mark.parametrize("order", ORDERS)
def test_what_hardware_does_not_forgive_is_an_error(run: Run, body: str, order: str) -> None:
    values = {"n": 256, "which": list(WRONG).index(body)}
    device = ShimDevice(order=order, strict=False)
    with pytest.raises(ShimError, match=WRONG[body]) as caught:
        run(_cases(WRONG), np.zeros(256, "f4"), shared=256, values=values, device=device)
    assert str(caught.value).startswith("kernel own ")


STRICT = {
    "a.x0[x] = a.x0[255 + x];": "reads 4 bytes .*outside of memory: 10.. bytes into an alloc.* 1024",
    "a.x0[x] = ((const float4*)a.x0)[x + 1].y;": "outside of memory|race",
    "if (x == 63) a.x0[0] = ((const float4*)a.x0)[x + 1].y;": "reads .*outside of memory",
    "a.x0[100000 + x] = 1;": "writes 4 bytes .*outside of memory",
    "extern __shared__ float d[]; a.x0[x] = d[x + 1];": "256 bytes into dynamic shared memory of 256",
    "__shared__ float s[8]; s[a.n - 200] = 1; __syncthreads();": "an index outside of its array",
    "float s[8]; for (int i = 0; i < 8; i++) s[i] = i; a.x0[x] = s[a.n / 8];": "an index outside",
    "a.x0[x] = a.n << (a.n / 8);": "a shift by more bits",
    "a.x0[x] = 100000 * a.n * a.n;": "an integer overflow",
    "a.x0[x] = (int)(a.x0[x] + 3e9f);": "a float that the integer",
    "unsigned r[4]; shim_ldmatrix_x4(r, a.x0 + 4 * (x + 1));": "outside of memory",
}


@pytest.mark.parametrize("body", STRICT)
def test_a_strict_device_looks_at_loads_and_arithmetic(run: Run, body: str) -> None:
    values = {"n": 256, "which": list(STRICT).index(body)}
    with pytest.raises(ShimError, match=STRICT[body]) as caught:
        run(_cases(STRICT), np.zeros(256, "f4"), shared=256, values=values)
    assert f": {body}" in str(caught.value)  # the line of source


def test_orders_that_leave_other_memory_are_an_error(run: Run) -> None:
    with pytest.raises(ShimError, match="leaves other memory where threads run backward: "):
        run("a.x0[0] = atomicAdd(&a.x1[0], 1) + 0 * blockIdx.x;".replace("a.x0[0]", "a.x0[threadIdx.x]"),
            np.zeros(64, "f4"), np.zeros(1, "f4"))  # fmt: skip


def test_memory_is_zeros_of_a_size(run: Run) -> None:
    device = ShimDevice(memory=10_000)
    first = device.allocate(9_000, "weights")
    zeros = np.ones(9_000, "u1")
    device.download(first.address, zeros)
    assert not zeros.any()
    assert first.address % ROW == 0
    assert device.free() == 1_000
    with pytest.raises(GGUFError, match="the cache takes 2000 bytes of device memory, of which 1000 are free"):
        device.allocate(2_000, "the cache")
    with pytest.raises(ShimError, match="not within device memory"):
        device.upload(first.address + 8_999, np.zeros(2, "u1"))
    first.close()
    assert device.free() == 10_000
    with pytest.raises(ShimError, match="not within device memory"):
        device.download(first.address, zeros)
    device.close()


def test_launches_are_checked(sources: dict[str, str]) -> None:
    device = ShimDevice("sm_75")
    sources["twice.cu"] = '#include "common.cuh"\nKERNEL(twice) { a.x[threadIdx.x] *= 2; }'
    spec = KernelSpec("twice", (("x", "float*"),), threads=32)
    memory = device.allocate(128, "rows")
    right = spec.record({"x": memory.address})
    wrong = {
        "for 1 to 32 threads": Launch(spec, right, (1, 1, 1), 64),
        "a grid of": Launch(spec, right, (1, 70_000, 1), 32),
        "shared memory: too much": Launch(spec, right, (1, 1, 1), 32, (64 << 10) + 1),
        "bytes of arguments": Launch(spec, right + b"\0", (1, 1, 1), 32),
        "not within device memory": Launch(spec, spec.record({"x": memory.address + 129}), (1, 1, 1), 32),
    }
    for message, launch in wrong.items():
        with pytest.raises(ShimError, match=message):
            device.run([launch])
    device.upload(memory.address, np.arange(32, dtype="f4"))
    graph = device.record([Launch(spec, right, (1, 1, 1), 32)] * 2)
    graph.launch()
    graph.launch()
    out = np.empty(32, "f4")
    device.download(memory.address, out)
    np.testing.assert_array_equal(out, 16 * np.arange(32))
    device.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_products_of_the_library(dtype: str) -> None:
    device = ShimDevice()
    a, b = RANDOM.standard_normal((5, 24)).astype("f4"), RANDOM.standard_normal((7, 32)).astype("f4")
    c = RANDOM.standard_normal((5, 9)).astype("f4")
    stored = [each.astype("f2") if dtype == "f16" else (each.view("u4") >> 16).astype("u2") for each in (a, b)]
    memory = [device.allocate(each.nbytes, "a matrix") for each in (*stored, c)]
    for each, content in zip(memory, (*stored, c), strict=True):
        device.upload(each.address, content)
    product = Product(5, 7, 20, memory[0].address, 24, memory[1].address, 32, memory[2].address, 9, dtype, True)
    device.run([product])
    out = np.empty_like(c)
    device.download(memory[2].address, out)
    wide = [each.astype("f4") if dtype == "f16" else (each.astype("u4") << 16).view("f4") for each in stored]
    np.testing.assert_allclose(out[:, :7], c[:, :7] + wide[0][:, :20] @ wide[1][:, :20].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out[:, 7:], c[:, 7:])
    with pytest.raises(ShimError, match="not recorded"):
        device.record([product])
    device.close()


def test_a_kernel_that_does_not_compile_says_why(run: Run) -> None:
    with pytest.raises(GGUFError, match=r"own does not compile for the CPU:\n(.*\n)*.*nothing_of_the_kind"):
        run("nothing_of_the_kind();", np.zeros(1, "f4"))


def test_without_a_compiler_tests_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"no g\+\+ here, with which"):
        ShimDevice()
