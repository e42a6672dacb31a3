"""The lattices ("grids") that the IQ types index: tuples of 8 or 4 digits, fixed by ggml; and parts of their encoders.

Every table is sorted by the number its digits spell (least significant digit first), so it is stored as a
bitmap over all such numbers: bit v is set if v is in the table. The n-th set bit is entry n.

Each part of an encoder takes the primitives `v` of a level and returns a function for kernels; arrays are addresses of
contiguous 32-bit numbers. The procedures are ggml-quants.c's, with its order of additions.
"""

from __future__ import annotations

from binascii import a2b_base64
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import Bytes

_IQ1_S = (
    b"VSUUhaACQlEIRTGohiCKohoIKiAUhVAUgiBERSUVBaACgiCIGAAIgqADKqCIu6oKkKoLACIACqqMgqAIQFEIRSGIgFAUQlEIijAI"
    b"mKAIgCoIRSEUhSBIQlUIRQEswqAgiiYAKiSoqqII4q8ICCgoAKACQiiqKCCogCAKmwi5uqggyq6Joq6qOnzr6rq7gg64IrrK0w6S"
    b"AiIAIiCoiroKggIIACpK4KI7IiArogCBQIGqiigIIgEUhVAVgiAJRSFUhaAIAiOoOiCEgiBUQlEIoiAIlVAUAioIuKiCgKBIAiAI"
    b"gqJoogIoqyoIhSAIgjAIRUAARSEUhaAAQlEARQEpggCKgioIoTAUBVAUgigIRSEUhSACAiCqKgAgErGKriiouqGqqHAAggoIAigi"
    b"AoQAggBIgKDqsCqqwiCLuiLq2qeLi26okrAqqnKLikQMKiBIhEAoiioIqiDIzKIioq+aoOioAgACACqoiAAggKCLoqIouqCAgjIK"
    b"ur64uv7roqArogiKCijqogChMgIM+qTq3u8rqC6Nvn7r+vd/v+Z9ut5p+yf/vyb6EunhiiIQqr4OhKoIsqgLgq7/uiTpg4AEYixo"
    b"8qgKpCsAAioICOKqEgACgioKpiDJgomQgigAogCMgBMAgggIAGyKqqq7Aqa+iqDKAoBrly7QsukQghAuqt4oFdGlBAAKggCKgiAI"
    b"AaEggqo5uiIyhKAJgBgAiqJiAoEURFEARSGsglAUQlEIqiAoqocKEioIRSEUBaAIQlEIRQEgAqBAoiIAiAAIoghqim64qqqAACAK"
    b"guLIIiEIRFAUQlEJiiAVhVAUhgoIqioqgAAKQlEIRSGoAFAUQlEI4iCIggoYgioIqqKqirCLAgoqqiAogoCqCigIKACpiAIioL4L"
    b"KLgIirpLsq7/uqT4rqogUihotqAw5oAKAigIImpigCAKAqqqK6rqoqmgoggIECCgiiIAgg4ARSEUhaAKQFEIRSGpBgBKqgIIpQAQ"
    b"DUQUgigIRSEUBQAIgoKs8iAAAACqCigKuiDqogIAgkgJKOkUABFLRVEARQGoAlAUQlEIiCQIiCgKQAgARQEUBaACQFEIRQE="
)
_IQ2_XXS = (
    b"VRUUVRBEQUEABBREABAAAAAEQAAUAEAAAAAABAAAUBBAQREAARQEQFAEQAAQAAAFEAAAUAAAAQAAQAAAQRQEQBQUAAAEAAAEAAAE"
    b"AAAAAAAABBAAAAAAAAAAABQEEBAAQAAEEQAEARAAQEAAAQAAAAAAAQQAAAAAABAEQARAAAAEAAAAABAAAAAQAAAAQAAQAAAAAAAA"
    b"AAAFAQAEAABAAAAAEQAAAAAAAAAAAQAAAABAAAAAAAAUBAAAAQABBQAAAAAAEBAAAAAAAFAAAAAAAAAAAABAQQAAAUAAAAAAQAAA"
    b"AAQAQAAAAAAAAAAAAAAAQAAAQAAEAAAAAAAEAAAAAAAAAAAAAAAAAAAAAQAAAAAAUBBEQRAQARQEABAAQAAAAAREAABAQAAAQEAA"
    b"AQAAQBAAAQAAABAAEAAABBAAAAAAAAAAAQAAAAAAAAAAABQEABABAAAAAAAEAAAAABABBAAAAAAAAAQAAAAEABBEUAAAAAAEAQAA"
    b"AQAABAAAAAAAAQAAAAAAAABAAAAAAAAAAAAAQAEAAAEAAAAAAAAAAAQAAAAAAQAAAAAEEAQAAAAEAAAAAAAAQAAAAAAAAAAEAAAA"
    b"AAAAAAAAQQAAAQAAAQAAQAAAAABAAAAAAAAAQAAAABAAAAAAEQAAAAAAAAAAAAAUAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAEAAAAA"
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAQEEAAAQAAEAAAAAEQAAEAAAAAAAAAAQAAAAAAAAAABREABAAQAAAAAAEAAAABAAAABAAAAQA"
    b"QAAAAQAAAEAAAAAAAAAAAAAAAQAAAAAAAAAAAAABAAAAAAAAAAAEARAEAAAAAAABAEAAAAAAQAAAAAAAAAABAAAAAAAEAEAAAQAA"
    b"AAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAABAAAABAAAAQAAAABAAAAAAAAAAAE"
    b"AAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)
_IQ2_XS = (
    b"VVVVUVVFQRVFAVRVVVBFQRAFAQBUURBAQQQAAQEAUFVFQRUVARQEAFBFQQAFAQQEAABAQQAQBQAAQAAAQFUFERQEARAAQEAFAQAE"
    b"AABAEAAAAQAEAQAAAAAQAVRVUVBFQUAFAQBUURBAQQAAAVAAUBEAQAAAAQAAAFBFQQBFARAEAABAQQAAAQAAAAAAQAAEAAABAAAA"
    b"AAAFBQAEQAAABAAAEQAAAAAABAAAAAAAAABAAAAAAABVVRBAQQAAAQAEUBAAQBAAEAAAABAAAAEAAAAEAABEQQBAAQAAAAAAQAAA"
    b"AAQQAAAAEAABAAEAAAAAAAAQQQEEAAABABAABAAAAAAAABAAAQAAARAAAAAARAEAUFVFQVUFERQEAFBFQQAFAQBEAEBAQQFAAQAA"
    b"AAAAQBVFARQEABAAAQAFARAEAAAAAEAAAQEAQBAAAAAAABQEABABAQEAAAAEEAAAQQBAAAAAQAAAAAAAAAAAAFBFQRAFAQAEAABA"
    b"QQQABQAAAAAAQAAAABAAAAAAAEAFAQQEABBAAAABQQAAAAAAQBAAAAAAEAAAABAAAAQEQABAQAAAAAABAAAQQAEAAAAAAAAAAAAA"
    b"AABAAABAQQAAARAQAAEAUAAAAAAAAAAAAAAAABAABAAAAAEAAUAAAAAAAAAAAAAEABABAAAAABAAAAAAAAAAAAAAEAAAAAAAAAEA"
    b"AAAAAAQAAAAAAAAABAAAABAQAAAAQBUFARUEAFAAAFAVAQAEEAQAAAAAAQAEAAAAQAEAQRRUABAAQABAAAAEAAAAAQAAAABAAAAE"
    b"AAAAAAEAABAEAAQAAAEUAAAEBAAAAAAAAAAAAAAABAAAABAEBBAFAQAEAAEAAQAAAQAQAAAAAQAAAAAAAAAABABAAABEAAAAQRAA"
    b"AAAAAAAAEAAAAAAUAAAAAAABAAAAAAAAAAAAAAQAAAAABAAAAAABAAAAAAAAEAAAABAAAAAARQEEBAAAAAAAAQAAAABAEAAAAEAU"
    b"AQAQAAAAAQAEAAAAQAAAAABAAAAAAAAAAAAAAAAAAAAAAABAAAAEAEAARQAAAAAAQBAEAAAAAAAABQAAAAAABQAAAAABAAE="
)
_IQ2_S = (
    b"VVVVUVVFVRUFEVVVUVBFVRQFFRRUURBQVQQAEREQUFVFVVVVFVRFUVBVVRRVVRRUURBAVQQAURQEUBAAQBVVEVVVURABAUAFVQRE"
    b"URBAQAAAARQQBRAAAABAAFRVUVFFVRUVURRUVVVFVRUFVRQAUBRBQQQFABQEAFBFVRRVVRRUURBAVRUFVRQEUBAAQBQFARQEABAA"
    b"AEBVUQRUURBAAQAAVRQEUBAAEAAABBAEABAABAAAAABUURVRQQUEAREAVFBBQAUFARQEABAQAFEEAQAABQBEVRQFVRQEUBAAQBQF"
    b"ARQEABEAAAAFAQAEAAQAAAAAERQAUBAAAEAAABUEAAAAAAAAEAAABEAAAAAEQAEAUFVVRVVVFRREUVBFVQVVVRRUURBAQRUEURQE"
    b"UAAAQFVVVVRVUVBFQQBVVRRUURBQQQAAVRQEUBAAQAAAEBRVUVBFQQAEAQBUURBAQQAAAUAAUBAAQAAAAAAAAFBFVRVVVRRUUQBA"
    b"VRUFVRQEUBAAQBQFARQEABQAAABVVRRUURBAQQAAVRQEUBAAQAAAABQEABEAAAAAAABUURBAQUAAAQAAUBAAQAAAAAAAABAAEAAA"
    b"AABAAABERRUFURQEQBAAQBUFARQEABAAEAAEAQAEAAEAAAABURQEUBAAQAAAABQEABAQABAABAAEAAAAAAAAABAAUBAAAAAAEAAA"
    b"ARAAAEAAAAAAAAAAAAAABAAAAABAQBVFERRUERBBAQBFVRRUUQBAQQBAERUAUBAAAAAAAFRVEVBFQQAFAQBUURBAQQAAAQEAUBAA"
    b"UAAAAAAAABBBAQAFAQAAAEBAAQAAAQBAAAAAAAAABAAABUAAAAFFVRBUURBAQQAAERQAUBAQAAAAABQEABAAAAAAAEBUURBAQQAA"
    b"AUAAUBAAQAAAAAAAERAAAAAQABAAAABAQQAQAQAAAAAAUAAAAAARAAAAAAAAAAAAAAAAQAAAEREQVBAAAAAABAEAABAAAAQAAAAQ"
    b"BEAUAAAARAEAURAAQAAAAAABQBAAEAAAAAAAAAAAAAAAAAQAAAAAAEAAQAAAAAAAAAEAAAAAQAAABAAAQAEUAQAAABAAAAE="
)
_IQ3_XXS = (
    b"FYoFAgQAACgKBSIFAhAAARUCBYoAggAgggUgAAAAAAEACACAEIAAKIIAAAQABAAAAAAAIAAAEAAAUQAACAACAAoFChWAAQAABQIF"
    b"AAAAAAAKBQIBAAAABAUAAQJAAEAAIgAAAAABAAAAABEAQAAAAiAAAAAAAAAAAAAEAAEAAAAFCkUCBAAAACoFAgEAAIgBBYIFgAEg"
    b"AAACEQAAAAAAEQAAACAACAAACACAAAIAABAAAAAAAAAAAApAAAAgAAAAAgUKAAABIAQFAAECUAAAAAoBIAAABAAEAAIACAAAAAAA"
    b"AAABgAAABEEABAAAIAAAABAAQAAACAAAAAAIAAABABCAAKAAiAAAAAAAAAAAABAAAAGAAQBBAIAAAAAgAAAAEAAAAAACEAAAACAA"
    b"CAAAAQAAAAAAAAAAIAUAAQAAAAAABAAAAgAAAUEAQAAAIAAAABAABAAAAAQEAAAAAAgAAAABiAAAAAAEBAAAAgAAAAAAAAAAAAEA"
    b"AAAAEAAEAAAAAAAQAFAAEAAAAAIAAAACAACAAAAAABAAAAAAQQAAAAAAAAAAEAAAACAAAAAABAAAAAAACAAAAAAIAAIAAAAAAKgB"
    b"AAQABAAAAABAAAEAAAAABAAAIAQAAAEgAAgAAAEAAAACAAIAAAAFABAAAAAAAAAAAAEAAAAAAAAAAAAAAAA="
)
_IQ3_S = (
    b"p1cjCKUKBZIXI4kiEAAiBKNJIhGkCgAJCCIFShAFgCIBiBIECQIAARQARQiiAEAIQAoAAgAEAAIVAEUIABEAABerBVIAUAIESxEC"
    b"CQIFAEEBpBEECSABBJIJghECAAQBKBQACkQRAAACCQIFAAIAAAAAkQBQAAAACgUCIAIABAGrVYoFKgWAKQWJJBIEAgAAkgAKgQKI"
    b"ABIlAhQKBAFAAIIACSQCAAAkEAIEgAEIAAGFAAIAACACACACQAEIAQAABKoEKpQCCAIqEAoAAQABRAEEARQAAQAAAhGKAYogAAgI"
    b"QgQCAAQRAAIFIAQQQAAIAEAAAAIAAAAKAAUgAAAAABEEkQQCAQABhAoEIQgiAAAKIQIIAYAEARAKBSIAAAAABQAQgAEAAAKgAAIA"
    b"AAAEAAAIABAAAAEAACEAAQgCAAAEEQQAkQRAECoEAgQAAAAEAQIIQQAIAACEAYAAEAIgCBIAAQRAAAAAAARAAAAKAAAAAAAABAAA"
    b"ABQABAAAAAAAACoACgAAAQABAIEAAAAQAAAEABAEIAQBARACAAEAAAAAACAACAAEAAkAABAAAAEAIAAAAAEAAAAACgAAAAAAAJEA"
    b"BUABEAQABAIQACgAAAASQQIBAAIAAAQAACQACAAAIggBAAABAAAAAAQABAAAAAQAAAIAAAAAAQAAAAAAAAA="
)


def _entries(bitmap: bytes, digits: int, values: tuple[int, ...]) -> Bytes:
    """(entries, digits): each digit of every number in the bitmap, replaced by its value."""
    bits = np.unpackbits(np.frombuffer(a2b_base64(bitmap), dtype=np.uint8), bitorder="little")
    digit = np.flatnonzero(bits)[:, None] // len(values) ** np.arange(digits) % len(values)
    entries: Bytes = np.array(values, dtype=np.uint8)[digit]
    return entries


def _eights(bitmap: bytes, values: tuple[int, ...]) -> NDArray[np.uint64]:
    return _entries(bitmap, 8, values).view(np.uint64)[:, 0]


def _fours(bitmap: bytes, values: tuple[int, ...]) -> NDArray[np.uint32]:
    return _entries(bitmap, 4, values).view(np.uint32)[:, 0]


@cache
def iq1() -> NDArray[np.uint64]:
    """(2048,) words of eight bytes: 8 * (weight + 1), the weight being -1, 0 or 1."""
    return _eights(_IQ1_S, (0, 8, 16))


@cache
def iq2_xxs() -> NDArray[np.uint64]:
    """(256,) words of eight magnitudes 8, 25 or 43."""
    return _eights(_IQ2_XXS, (8, 25, 43))


@cache
def iq2_xs() -> NDArray[np.uint64]:
    """(512,) words of eight magnitudes 8, 25 or 43."""
    return _eights(_IQ2_XS, (8, 25, 43))


@cache
def iq2_s() -> NDArray[np.uint64]:
    """(1024,) words of eight magnitudes 8, 25 or 43."""
    return _eights(_IQ2_S, (8, 25, 43))


@cache
def iq3_xxs() -> NDArray[np.uint32]:
    """(256,) words of four halved magnitudes (ggml's are 4, 12, ... 52, 62)."""
    return _fours(_IQ3_XXS, (2, 6, 10, 14, 18, 22, 26, 31))


@cache
def iq3_s() -> NDArray[np.uint32]:
    """(512,) words of four odd magnitudes 1 to 15."""
    return _fours(_IQ3_S, (1, 3, 5, 7, 9, 11, 13, 15))


def nearest_int(v: Any) -> Any:
    """nearest_int(x): lane by lane, as ggml rounds: to even, and the same garbage for what 22 bits cannot hold."""

    @v.njit
    def nearest_int(x):
        return (v.as_i(x + v.splat_f(12582912.0)) & v.splat_i(0x7FFFFF)) - v.splat_i(0x400000)

    return nearest_int


def nearest_level(v: Any, levels: int) -> Any:
    """nearest_level(x): the digit, 0 to levels - 1, whose odd number 2 · digit + 1 is nearest."""
    nearest = nearest_int(v)

    @v.njit
    def nearest_level(x):
        digit = nearest(v.splat_f(0.5) * (x - v.splat_f(1.0)))
        return v.max_i(v.splat_i(0), v.min_i(v.splat_i(levels - 1), digit))

    return nearest_level


def weigh(v: Any, factor: int, weighted: bool, floor: float = 0.0) -> Any:
    """weigh(x, w): the weight of each error in a block of 256, from the importances at w; returns the variance.

    The variance is `factor` times the mean square. Unweighted, w becomes floor · variance + x².
    """
    zero, scale, count = np.float32(0), np.float32(factor), np.float32(256)

    @v.njit
    def weigh(x, w):
        total = zero
        for i in range(256):
            one = v.load_f32(x + 4 * i)
            total = total + one * one
        variance = scale * total / count
        for i in range(0, 256, v.L):
            one = v.load_f(x + 4 * i)
            if weighted:
                weight = v.load_f(w + 4 * i) * v.sqrt_f(v.splat_f(variance) + one * one)
            else:
                weight = v.splat_f(floor) * v.splat_f(variance) + one * one
            v.store_f(w + 4 * i, weight)
        return variance

    return weigh


def split_signs(v: Any, even: bool) -> Any:
    """split_signs(x, w, signs): 256 weights become magnitudes; the i32 of each eight has the bits of the negative ones.

    Where signs must be even and are not, the weight that matters least gets the other sign, and bit 7 is left out.
    """
    zero = np.float32(0)

    @v.njit
    def make_even(x, w):
        weakest, least = 0, v.load_f32(w) * v.load_f32(x) * v.load_f32(x)
        for i in range(1, 8):
            one = v.load_f32(x + 4 * i)
            cost = v.load_f32(w + 4 * i) * one * one
            if cost < least:
                weakest, least = i, cost
        v.store_f32(x + 4 * weakest, -v.load_f32(x + 4 * weakest))
        return 1 << weakest

    @v.njit
    def split_signs(x, w, signs):
        for k in range(32):
            bits, count = 0, 0
            for i in range(8):
                one = v.load_f32(x + 32 * k + 4 * i)
                if one < zero:
                    bits, count = bits | (1 << i), count + 1
                    v.store_f32(x + 32 * k + 4 * i, -one)
            if even and count & 1:
                bits ^= make_even(x + 32 * k, w + 32 * k)
            v.store_i32(signs + 4 * k, bits & 127 if even else bits)

    return split_signs


def put_scale(v: Any, factor: float) -> Any:
    """put_scale(out, scale, work): the f16 of scale · factor into bytes 0 and 1 of out."""
    fudge = np.float32(factor)

    @v.njit
    def put_scale(out, scale, work):
        v.store_i(work, v.half_i(v.splat_f(scale * fudge)))
        v.store_u16(out, 0 + v.load_i32(work))

    return put_scale


def scale_levels(v: Any, groups: int, levels: int) -> Any:
    """scale_levels(scales, step): the f32 scales of `groups` groups become i32 l, scale nearest (2 l + 1) · step.

    They are 0 where the step is.
    """
    level, zero, one = nearest_level(v, levels), np.float32(0), np.float32(1)

    @v.njit
    def scale_levels(scales, step):
        inverse = v.splat_f(one / step if step > zero else zero)
        for i in range(0, groups, v.L):
            v.store_i(scales + 4 * i, level(inverse * v.load_f(scales + 4 * i)))

    return scale_levels
