"""What the matrix kernels share: arguments, sharing panels out to threads, and storing finished sums.

    x         [token] rows of n_blocks × 32 columns, x_stride bytes apart
    weights   [n_panels][n_blocks] blocks of a panel: n_panels × lanes rows, those of the matrix and what fills up
    y         [token][n_panels × lanes] f32, rows y_stride bytes apart; `adds` is 1 where it is added to
    bias      [n_panels × lanes] f32, or 0
    step      i64: number of tokens

Threads share panels out. Weights are read several panels at a time, each stream from its own part of the thread's
share, so that memory serves several streams at once: a thread of 10 panels and 4 streams makes 2 rounds, of panels
0 2 4 6 and 1 3 5 7, and takes 8 and 9 alone. The order over k is the same whatever the number of threads, streams or
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ggufpy.jit.spec import struct

ARGS = struct(
    "step_ptr", "weights_ptr", "x_ptr", "y_ptr", "bias_ptr", "n_panels", "n_blocks", "x_stride", "y_stride", "adds",
    "multiplier:f4",
)  # fmt: skip

MANY = 4  # tokens of a group when there are more groups to come
TWICE = 2 * MANY  # tokens that a panel by itself is taken for, where there are registers for their sums

# make(streams, ahead) returns accumulate(weights, stride, blocks, x, x_stride, total), which adds Σ_k weight[j] · x[t]
# to total[j, t] for panels `stride` bytes apart, and where `ahead` is set brings weights from memory before their turn.
# Activations of token t are at x + t * x_stride, where x_stride is a number, or `v.distances` of four tokens.
MakeAccumulate = Callable[[int, bool], Any]


def _tile(v: Any, accumulate: Any, streams: int, tokens: int) -> Any:
    """tile(...) multiplies `streams` panels by `tokens` activations over the whole of k, and stores to y."""
    count = streams * tokens

    @v.njit
    def tile(weights, stride, blocks, x, x_stride, y, y_step, y_stride, bias, multiplier, add):
        total = v.floats(count)
        for n in range(count):
            total[n] = v.splat_f(0.0)
        accumulate(weights, stride, blocks, x, x_stride, total)
        for j in range(streams):
            for t in range(tokens):
                out = y + j * y_step + t * y_stride
                value = total[j * tokens + t] * v.splat_f(multiplier)
                if bias != 0:
                    value = value + v.load_f(bias + j * y_step)
                if add != 0:
                    value = value + v.load_f(out)
                v.store_f(out, value)

    return tile


def _panels(v: Any, make: MakeAccumulate, streams: int, tokens: int, block_bytes: int) -> Any:
    """panels(args, first, count, n_tokens) makes `count` rounds of `streams` panels, from panel `first` on."""
    row_bytes = v.L * 4
    # The first group of tokens reads weights from memory, the next ones from the caches.
    leading = _tile(v, make(streams, True), streams, tokens)
    following = _tile(v, make(streams, False), streams, tokens) if tokens == MANY and streams > 1 else leading

    @v.njit
    def panels(args, first, count, n_tokens):
        weights, x, y, bias = args.weights_ptr, args.x_ptr, args.y_ptr, args.bias_ptr
        blocks, x_stride, y_stride = args.n_blocks, args.x_stride, args.y_stride
        multiplier, add = args.multiplier, args.adds
        stride = blocks * block_bytes
        for panel in range(first, first + count):
            w, out = weights + panel * stride, y + panel * row_bytes
            b = bias + panel * row_bytes if bias != 0 else 0
            if n_tokens > 0:
                leading(w, count * stride, blocks, x, x_stride, out, count * row_bytes, y_stride, b, multiplier, add)
            for t in range(tokens, n_tokens, tokens):
                at, to = x + t * x_stride, out + t * y_stride
                following(w, count * stride, blocks, at, x_stride, to, count * row_bytes, y_stride, b, multiplier, add)

    return panels


def _doubled(v: Any, make: MakeAccumulate, twice: MakeAccumulate, block_bytes: int) -> Any:
    """doubled(args, first, count, n_tokens) makes `count` panels from `first` on, one at a time, for two groups of
    tokens at once and for one that is left over."""
    row_bytes = v.L * 4
    leading, following = (_tile(v, twice(1, ahead), 1, TWICE) for ahead in (True, False))
    single = _tile(v, make(1, False), 1, MANY)

    @v.njit
    def doubled(args, first, count, n_tokens):
        weights, x, y, bias = args.weights_ptr, args.x_ptr, args.y_ptr, args.bias_ptr
        blocks, x_stride, y_stride = args.n_blocks, args.x_stride, args.y_stride
        multiplier, add = args.multiplier, args.adds
        stride = blocks * block_bytes
        whole = (n_tokens + MANY - 1) // MANY * MANY
        pairs = whole // TWICE * TWICE
        for panel in range(first, first + count):
            w, out = weights + panel * stride, y + panel * row_bytes
            b = bias + panel * row_bytes if bias != 0 else 0
            leading(w, stride, blocks, x, x_stride, out, row_bytes, y_stride, b, multiplier, add)
            for t in range(TWICE, pairs, TWICE):
                at, to = x + t * x_stride, out + t * y_stride
                following(w, stride, blocks, at, x_stride, to, row_bytes, y_stride, b, multiplier, add)
            if pairs < whole:
                at, to = x + pairs * x_stride, out + pairs * y_stride
                single(w, stride, blocks, at, x_stride, to, row_bytes, y_stride, b, multiplier, add)

    return doubled


def matmul(
    v: Any, make: MakeAccumulate, streams: int, tokens: int, block_bytes: int, twice: MakeAccumulate | None = None
) -> Callable[..., None]:
    """The kernel, which takes `streams` panels at a time, those left over one at a time.

    Tokens are taken in whole groups: x and y have rows for all of the last one, whose surplus nobody reads. With
    `twice`, which makes what two groups take together, panels are taken one at a time where there is more than one
    group.
    """
    wide = _panels(v, make, streams, tokens, block_bytes)
    narrow = _panels(v, make, 1, tokens, block_bytes)
    if twice is not None:
        return _of_any(v, wide, narrow, _doubled(v, make, twice, block_bytes), streams)

    def kernel(args, ith, nth):
        n_tokens = v.load_i64(args.step_ptr)
        first, last = args.n_panels * ith // nth, args.n_panels * (ith + 1) // nth
        rounds = (last - first) // streams
        wide(args, first, rounds, n_tokens)
        narrow(args, first + rounds * streams, last - first - rounds * streams, n_tokens)

    return kernel


def _of_any(v: Any, wide: Any, narrow: Any, doubled: Any, streams: int) -> Callable[..., None]:
    """The kernel that has all three, for one group of tokens or more."""

    def kernel(args, ith, nth):
        n_tokens = v.load_i64(args.step_ptr)
        first, last = args.n_panels * ith // nth, args.n_panels * (ith + 1) // nth
        if n_tokens > MANY:
            doubled(args, first, last - first, n_tokens)
        else:
            rounds = (last - first) // streams
            wide(args, first, rounds, n_tokens)
            narrow(args, first + rounds * streams, last - first - rounds * streams, n_tokens)

    return kernel
