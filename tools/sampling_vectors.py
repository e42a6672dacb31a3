"""Writes tests/sampling_vectors.py from llama.cpp's own samplers: `sampling_vectors.py SOURCE`, a source tree of it.

With `--compare N` it draws N chains of options instead, and counts where ours leave something else of random logits.
That is to be where llama.cpp goes on with what was dropped (top_n_sigma leaves candidates of -inf, which typ_p, infill,
min_keep and dynamic temperature count), where a probability that is 0 makes its typ_p NaN, where infill has more than
1,000 candidates, and where a bound is met to the last bit.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from peers import samplers

from ggufpy import Sampling
from ggufpy.generate.sampling import Guides, Sampler
from ggufpy.generate.sampling.candidates import Candidates
from ggufpy.generate.sampling.steps import named

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
from sampling_reference import Words  # noqa: E402 - a vocabulary of byte strings

WORDS = [b"a", b"b", b"c", b"#", b"##", b"ab", b"abc", b"b#", b"\n", b":", b"a:b", b"<end>"]
ENDS = (11,)
LOGITS = [2.1, -0.4, 3.3, 0.7, 1.9, 2.8, -1.2, 0.1, 1.4, 0.9, -0.3, 1.1]
TEXT = [3, 0, 2, 0, 2, 3, 0, 3, 0, 8, 0, 1, 0, 3, 0, 1, 3, 0]
PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}

LEFT: list[dict[str, Any]] = [
    {},
    {"temp": 0.5},
    {"temp": 0.0},
    {"top_k": 4},
    {"top_p": 0.6},
    {"top_p": 0.6, "min_keep": 7},
    {"min_p": 0.2},
    {"min_p": 0.2, "min_keep": 8},
    {"typical": 0.4},
    {"typical": 0.4, "min_keep": 6},
    {"top_n_sigma": 0.8},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1, "min_keep": 11},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1, "temp": 0.0},
    {"dynatemp_range": 0.5},
    {"dynatemp_range": 2.0, "dynatemp_exponent": 3.0},
    {"temp": 0.2, "dynatemp_range": 0.9, "top_k": 5},
    {"temp": 0.0, "dynatemp_range": 0.5},
    {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.4},
    {"repeat_penalty": 1.3, "repeat_last_n": 3},
    {"dry_multiplier": 0.8},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": ()},
    {"dry_multiplier": 0.8, "dry_base": 3.0, "dry_allowed_length": 1, "dry_sequence_breakers": ()},
    {"dry_multiplier": 0.8, "dry_allowed_length": 0},
    {"dry_multiplier": 0.8, "dry_penalty_last_n": 6, "dry_sequence_breakers": ()},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": ("b#", "##:")},
    {"dry_multiplier": 1.5, "dry_sequence_breakers": ("cab",)},
    {"samplers": "temperature;penalties;top_k", "temp": 0.6, "repeat_penalty": 1.5, "top_k": 5},
    {"samplers": "min_p;dry;top_p", "min_p": 0.1, "dry_multiplier": 2.0, "dry_sequence_breakers": (), "top_p": 0.8},
    {"samplers": "top_k;xtc;typ_p", "top_k": 6, "xtc_probability": 1.0, "typical": 0.8},
    {"samplers": "xtc;top_p;xtc", "xtc_probability": 1.0, "top_p": 0.7, "xtc_threshold": 0.08},
    {"samplers": "top_k;temperature", "temp": 0.0, "top_k": 3},
    {"samplers": "", "temp": 0.0},
    {"samplers": "kpi", "top_k": 6, "top_p": 0.95},
    {"samplers": "infill"},
    {"samplers": "ki", "top_k": 4},
    {"logit_bias": ((2, -4.0), (6, 5.5)), "top_k": 3},
]  # fmt: skip
DRAWN: list[dict[str, Any]] = [
    {"mirostat": 1, "mirostat_tau": 1.5, "mirostat_eta": 0.6},
    {"mirostat": 2, "mirostat_tau": 1.5, "mirostat_eta": 0.6},
    {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.9, "temp": 1.4},
    {"mirostat": 1, "temp": 0.7, "mirostat_tau": 1.0, "mirostat_eta": 0.4},
    {"samplers": "min_p;adaptive_p", "min_p": 0.02, "adaptive_target": 0.3, "adaptive_decay": 0.5},
    {"samplers": "at", "temp": 1.5, "adaptive_target": 0.05, "adaptive_decay": 0.9},
]

HEAD = '''"""What samplers of llama.cpp make of a few logits, as tools/sampling_vectors.py writes them.

Called was src/llama-sampler.cpp of the llama.cpp that is in llama-cpp-python 0.3.36. Options are those of `Sampling`,
over `PLAIN`; shares are of each token, in what is left ahead of the draw.
"""

from __future__ import annotations

from typing import Any

'''


def line(shares: Any) -> str:
    """Shares in four decimals."""
    return "[" + ", ".join(f"{x:.4f}".rstrip("0").rstrip(".").replace("0.", ".") or "0" for x in shares) + "]"


def written(library: Any) -> str:
    """The file."""
    peer = samplers.Peer(library, WORDS, ENDS)
    logits = np.array(LOGITS, np.float32)
    parts = [HEAD, f"WORDS = {WORDS!r}\nENDS = {ENDS!r}\nLOGITS = {LOGITS!r}\nTEXT = {TEXT!r}  # what stands before\n"]
    parts.append(f"PLAIN: dict[str, Any] = {PLAIN!r}\n\nLEFT: list[tuple[dict[str, Any], list[float]]] = [\n")
    for options in LEFT:
        text = peer.text(Sampling(**{**PLAIN, **options, "seed": 1}))
        for token in TEXT:
            text.accept(token)
        parts.append(f"    ({options!r},\n     {line(text.left(logits))}),\n")
        text.close()
    parts.append(
        "]  # fmt: skip\n\n# Turn by turn, with LOGITS moved on by one: the token drawn and from which shares.\n"
    )
    parts.append("DRAWN: list[tuple[dict[str, Any], list[tuple[int, list[float]]]]] = [\n")
    for options in DRAWN:
        text = peer.text(Sampling(**{**PLAIN, **options, "seed": 3}))
        parts.append(f"    ({options!r}, [\n")
        for turn in range(5):
            token, shares = text.draw(np.roll(logits, turn))
            text.accept(token)
            parts.append(f"        ({token}, {line(shares)}),\n")
        parts.append("    ]),\n")
        text.close()
    return "".join([*parts, "]  # fmt: skip\n"])


# -- random chains --

PIECES = [*WORDS, b"#a", b"\n\n", b".", b".\n", b"cab", b"###", b"bc", b"c#", *(b"t%d" % i for i in range(3000))]
CHOICES: dict[str, list[Any]] = {
    "temp": [0.0, 0.3, 0.8, 1.0, 2.5],
    "dynatemp_range": [0.0, 0.0, 0.2, 0.8, 3.0], "dynatemp_exponent": [1.0, 0.5, 2.0],
    "top_k": [0, 1, 3, 40], "top_p": [1.0, 0.3, 0.9, 0.99, 0.0], "min_p": [0.0, 0.01, 0.05, 0.4],
    "typical": [1.0, 1.0, 0.3, 0.9], "top_n_sigma": [-1.0, 0.5, 1.0, 2.1], "xtc_probability": [0.0, 1.0],
    "xtc_threshold": [0.05, 0.1, 0.3], "repeat_penalty": [1.0, 1.3, 0.7], "repeat_last_n": [-1, 0, 3, 64],
    "presence_penalty": [0.0, 0.5], "frequency_penalty": [0.0, 0.3, -0.2], "min_keep": [0, 0, 1, 2, 5],
    "dry_multiplier": [0.0, 0.8, 2.0], "dry_base": [1.0, 1.75, 3.0], "dry_allowed_length": [0, 1, 2, 4],
    "dry_penalty_last_n": [-1, 0, 8, 64], "logit_bias": [(), ((0, 1.5),), ((1, -2.0), (0, -0.25))],
    "dry_sequence_breakers": [(), ("\n", ":"), ("##",), ("ab", "###"), ("\n\n.",), ("abcab",)],
}  # fmt: skip


def left_by_ours(sampler: Sampler, logits: Any) -> Any:
    """Shares (n,) of what our steps leave ahead of the draw."""
    shares: Any = np.zeros(len(logits))

    def draw(candidates: Candidates, weights: Any = None) -> int:
        candidates.sort()
        shares[candidates.ids] = candidates.shares()
        candidates.first(1)
        return 0

    usual, Candidates.draw = Candidates.draw, draw  # type: ignore[method-assign]
    try:
        token = sampler.sample(logits)
    finally:
        Candidates.draw = usual  # type: ignore[method-assign]
    return shares if shares.any() else np.eye(len(logits))[token]


def compare(library: Any, count: int, seed: int) -> None:
    """Prints how many of three turns each of `count` chains differ, and by which samplers these ran."""
    rng, differ = np.random.default_rng(seed), Counter[str]()
    for _ in range(count):
        n = int(rng.choice([2, 5, 20, 300, 3000]))
        ends = (11,) if n > 11 else (1,)
        options = {name: values[rng.integers(len(values))] for name, values in CHOICES.items()}
        names = rng.permutation([name for name in named() if name != "adaptive_p"])[: rng.integers(1, 11)].tolist()
        sampling = Sampling(**options, samplers=names, seed=1)
        text = samplers.Peer(library, PIECES[:n], ends).text(sampling)
        sampler = Sampler(sampling, n, guides=Guides(vocabulary=Words(PIECES[:n], ends)))
        tokens = rng.integers(0, min(n, rng.choice([2, 4, 20])), rng.choice([3, 30, 200])).tolist()
        for turn in range(3):
            for token in tokens:
                sampler.accept(token)
                text.accept(token)
            logits = (rng.normal(size=n) * rng.choice([1, 3, 6])).astype(np.float32)
            far = np.abs(left_by_ours(sampler, logits) - text.left(logits)).max()
            differ["differ" if far > 2e-4 else "agree"] += 1
            if far > 2e-4:
                print(f"turn {turn}, {n} tokens, {far:.4f} apart: {sampling}")
            tokens = [int(rng.integers(n))]
        text.close()
    print(dict(differ))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a llama.cpp source tree, as in the sdist of llama-cpp-python")
    parser.add_argument("--compare", type=int, metavar="N", help="compare N random chains, write nothing")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    library = samplers.compiled(args.source)
    if args.compare:
        compare(library, args.compare, args.seed)
    else:
        (TESTS / "sampling_vectors.py").write_text(written(library))


if __name__ == "__main__":
    main()
