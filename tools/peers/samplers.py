"""llama.cpp's samplers, called one by one: src/llama-sampler.cpp of a source tree, compiled alone with g++ (Linux).

In: options, as `ggufpy.Sampling` has them, logits and tokens. Out: what the samplers leave. The chain is that of
common/sampling.cpp.
"""

from __future__ import annotations

import ctypes as c
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ggufpy import Sampling

_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_WHOLE = 1 << 16  # tokens: here -1 is the whole text, there it turns a penalty off


class _Array(c.Structure):
    """llama_token_data_array"""

    _fields_ = (("data", c.c_void_p), ("size", c.c_size_t), ("selected", c.c_int64), ("sorted", c.c_bool))


class _Bias(c.Structure):
    _fields_ = (("token", c.c_int32), ("bias", c.c_float))


def compiled(source: Path) -> Any:
    """The samplers as a library. What they call beside the vocabulary (tensors, grammars) is not there."""
    include = [f"-I{source / folder}" for folder in ("include", "ggml/include", "src", "common")]
    files = [str(source / "src/llama-sampler.cpp"), str(Path(__file__).with_suffix(".cpp"))]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "samplers.so")
        how = ["-O1", "-std=c++17", "-fPIC", "-shared", "-Wl,--unresolved-symbols=ignore-all"]
        subprocess.run(["g++", *how, *include, *files, "-o", out], check=True)
        return c.CDLL(out, mode=1)  # lazy: what is missing is not called


class Peer:
    """The samplers of a source tree, over a vocabulary of `words` of which `ends` end a text."""

    def __init__(self, library: Any, words: list[bytes], ends: tuple[int, ...]) -> None:
        self._library, self.n = library, len(words)
        library.vocabulary.restype = c.c_void_p
        sizes = (c.c_int * self.n)(*map(len, words))
        self._vocab = library.vocabulary(b"".join(words), sizes, self.n, (c.c_int * len(ends))(*ends), len(ends))

    def text(self, sampling: Sampling) -> Text:
        """The samplers of one text."""
        return Text(self, sampling)

    def make(self, name: str, *values: Any) -> Any:
        """A sampler; floats are float32, ints 32 bits unless they say more."""
        function = getattr(self._library, f"llama_sampler_init_{name}")
        function.restype = c.c_void_p
        return c.c_void_p(function(*(c.c_float(value) if isinstance(value, float) else value for value in values)))

    def chain(self, s: Sampling) -> tuple[list[Any], Any]:
        """The samplers that `s` asks for, and the one that draws."""
        biases = (_Bias * len(s.logit_bias))(*s.logit_bias)
        seed, temp = c.c_uint32(s.seed or 0), max(float(s.temp), 0.0)
        first = [self.make("logit_bias", self.n, len(biases), biases)] if s.logit_bias else []
        if s.mirostat:
            tau, eta = float(s.mirostat_tau), float(s.mirostat_eta)
            if s.mirostat == 1:
                return [*first, self.make("temp", temp)], self.make("mirostat", self.n, seed, tau, eta, 100)
            return [*first, self.make("temp", temp)], self.make("mirostat_v2", seed, tau, eta)
        middle = [self._named(name, s) for name in s.samplers if name != "adaptive_p"]
        if "adaptive_p" in s.samplers:
            return first + middle, self.make("adaptive_p", float(s.adaptive_target), float(s.adaptive_decay), seed)
        return first + middle, self.make("dist", seed)

    def _named(self, name: str, s: Sampling) -> Any:
        least, last_n = c.c_size_t(s.min_keep), s.repeat_last_n if s.repeat_last_n >= 0 else _WHOLE
        breakers = [text.encode() for text in s.dry_sequence_breakers]
        dry_last_n = s.dry_penalty_last_n if s.dry_penalty_last_n >= 0 else _WHOLE
        values: dict[str, tuple[Any, ...]] = {
            "penalties": (self.n, last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty),
            "dry": (c.c_void_p(self._vocab), s.dry_multiplier, s.dry_base, s.dry_allowed_length, dry_last_n,
                    (c.c_char_p * len(breakers))(*breakers), c.c_size_t(len(breakers))),
            "top_n_sigma": (s.top_n_sigma,),
            "top_k": (s.top_k,),
            "typ_p": (s.typical, least),
            "top_p": (s.top_p, least),
            "min_p": (s.min_p, least),
            "xtc": (s.xtc_probability, s.xtc_threshold, least, c.c_uint32(s.seed or 0)),
            "temperature": (max(s.temp, 0.0), s.dynatemp_range, s.dynatemp_exponent),
            "infill": (c.c_void_p(self._vocab),),
        }  # fmt: skip
        return self.make({"typ_p": "typical", "temperature": "temp_ext"}.get(name, name), *values[name])

    def call(self, name: str, *values: Any) -> None:
        """A function of samplers."""
        getattr(self._library, f"llama_sampler_{name}")(*values)


class Text:
    """One text: what is left of logits (n,), as the share of each token."""

    def __init__(self, peer: Peer, sampling: Sampling) -> None:
        self._peer = peer
        self._steps, self._last = peer.chain(sampling)

    def accept(self, token: int) -> None:
        """A token of the text."""
        for step in (*self._steps, self._last):
            self._peer.call("accept", step, token)

    def left(self, logits: Any) -> Any:
        """Shares (n,) ahead of the draw."""
        data, _ = self._applied(logits, self._steps)
        weights = np.exp(data["logit"].astype(np.float64) - data["logit"].max())
        return self._by_token(data, weights / weights.sum())

    def draw(self, logits: Any) -> tuple[int, Any]:
        """The token drawn, and from which shares (n,)."""
        data, at = self._applied(logits, [*self._steps, self._last])
        return int(data["id"][at]), self._by_token(data, data["p"])

    def close(self) -> None:
        """Gives the samplers back."""
        for step in (*self._steps, self._last):
            self._peer.call("free", step)

    def _by_token(self, data: Any, shares: Any) -> Any:
        found = np.zeros(self._peer.n)
        found[data["id"]] = shares
        return found

    def _applied(self, logits: Any, steps: list[Any]) -> tuple[Any, int]:
        data = np.zeros(self._peer.n, _TOKEN)
        data["id"], data["logit"] = np.arange(self._peer.n), logits
        array = _Array(data.ctypes.data, len(data), -1, False)
        for step in steps:
            self._peer.call("apply", step, c.byref(array))
        left = np.frombuffer(c.string_at(array.data, array.size * _TOKEN.itemsize), _TOKEN)
        return left, int(array.selected)
