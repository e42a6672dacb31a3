"""Fuzz the reader: mutated files must open, or raise GGUFError, within a second each.

    python tools/fuzz.py --count 100000 --seed 1     the mutator below: the same cases for the same seed
    python tools/fuzz.py --seconds 60
    python tools/fuzz.py --atheris --seconds 60      coverage-guided, where PyPI's atheris is installed

Ends with one line of figures. At the first failure it writes the case to fuzz-failure.gguf and exits 1.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ggufpy.commands.inspect import as_json, describe
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, Typed, from_bytes, write

SLOW = 1.0  # seconds that no case may take
SMALL = 1 << 16  # bytes of data up to which a tensor is decoded
INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 16, 17, 31, 32, 33, 63, 64, 127, 128, 255, 256, 65535, 65536, 2**31 - 1,
    2**31, 2**32 - 1, 2**32, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1,
)  # fmt: skip


def seeds() -> list[bytes]:
    """Small valid files: every value type, nested arrays, both byte orders, both versions."""
    numbers = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
    scalars = {name: Typed(name, 7) for name in numbers}
    arrays = {f"{name}s": Typed(f"array[{name}]", [1, 2, 3]) for name in numbers}
    rest = {
        "yes": True,
        "text": "größer",
        "empty": "",
        "bools": [True, False],
        "strings": ["a", "", "longer than eight bytes"],
        "none": [],
        "nested": [[1, 2], [], [["a"], [[True]]]],
    }
    data = np.arange(4 * 144, dtype=np.uint8).reshape(4, 144)
    tensors = {
        "token_embd.weight": Blocks(data, "Q4_K"),
        "scalar": np.float32(1.5).reshape(()),
        "ints": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "nothing": np.empty((0, 3), np.float16),
        "q": Blocks(np.zeros((1, 2, 3, 34), np.uint8), "Q8_0"),
    }
    made = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seed.gguf")
        for order in ("little", "big"):
            write(path, {**scalars, **arrays, **rest}, tensors, byteorder=order)
            made.append(path.read_bytes())
            write(path, {"general.alignment": 64, "s": "x"}, {"t": tensors["ints"]}, byteorder=order, version=2)
            made.append(path.read_bytes())
        write(path, {"strings": [str(i) for i in range(300)]}, {})
        made.append(path.read_bytes())
    return made


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One of the files with one to four changes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 4)):
        rng.choice(MUTATIONS)(rng, data, corpus)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 9, 127, 128, 255, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    code, mask = rng.choice((("I", 2**32 - 1), ("Q", 2**64 - 1)))
    raw = struct.pack(rng.choice("<>") + code, (rng.choice(INTERESTING) + rng.choice((0, 0, 0, -1, 1))) & mask)
    at = _place(rng, data)
    data[at : at + len(raw)] = raw


def _cut(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    del data[_place(rng, data) :]


def _remove(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 4, 8, rng.randint(1, 64)))]


def _insert(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 8, rng.randint(1, 64))))


def _splice(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    other = rng.choice((bytes(data), rng.choice(corpus)))
    start = rng.randrange(len(other) + 1)
    part = other[start : start + rng.randint(1, 200)]
    at = _place(rng, data)
    data[at : at + rng.choice((0, len(part)))] = part


def _place(rng: random.Random, data: bytearray) -> int:
    """A position, in the header more often than further on."""
    return min(rng.randrange(rng.choice((32, 256, len(data) + 1))), max(len(data) - 1, 0))


MUTATIONS: tuple[Callable[[random.Random, bytearray, list[bytes]], None], ...] = (
    _flip, _byte, _number, _number, _cut, _remove, _insert, _splice,
)  # fmt: skip


def read_all(data: bytes) -> bool:
    """Open a file and read all that can be read; whether it was valid. Anything but GGUFError passes on."""
    try:
        file = from_bytes(data)
    except GGUFError as e:
        if "\n" in str(e):
            raise RuntimeError("the error is not one line") from e
        return False
    json.dumps(as_json(file), allow_nan=False)
    for _ in describe(file, True):
        pass
    for key in file.metadata:
        file.metadata.typed(key)
        if file.metadata.type(key) == "array[string]":
            list(file.metadata.strings(key))
    with np.errstate(all="ignore"):
        for tensor in file.tensors.values():
            assert tensor.data.nbytes == tensor.nbytes, "the view has another size than the tensor"
            if tensor.nbytes <= SMALL:
                tensor.to_numpy()
    return True


@dataclass
class Tally:
    """What the run has seen so far."""

    cases: int = 0
    valid: int = 0
    slowest: float = 0.0
    slowest_case: int = 0

    def run(self, data: bytes) -> None:
        """One case; a failure is kept in a file and passed on."""
        start = time.perf_counter()
        try:
            self.valid += read_all(data)
            seconds = time.perf_counter() - start
            assert seconds < SLOW, f"the case took {seconds:.2f} s"
        except BaseException:
            Path("fuzz-failure.gguf").write_bytes(data)
            print(f"case {self.cases} fails; it is in fuzz-failure.gguf", file=sys.stderr)
            raise
        if seconds > self.slowest:
            self.slowest, self.slowest_case = seconds, self.cases
        self.cases += 1

    def line(self, seconds: float) -> str:
        """The figures of the run."""
        refused = self.cases - self.valid
        return (
            f"fuzz: {self.cases:,} cases ({self.valid:,} valid, {refused:,} refused) in {seconds:.1f} s, "
            f"slowest {1000 * self.slowest:.1f} ms (case {self.slowest_case})"
        )


def fuzz(count: int, seed: int, seconds: float) -> Tally:
    """Run `count` mutated files, or as many as fit into `seconds` (0: no limit)."""
    rng = random.Random(seed)
    corpus = seeds()
    for data in corpus:
        assert read_all(data), "a seed file is not valid"
    tally = Tally()
    start = time.perf_counter()
    while tally.cases < count and not (seconds and time.perf_counter() - start > seconds):
        tally.run(mutate(rng, corpus))
    return tally


def fuzz_atheris(seed: int, seconds: float) -> int:
    """Coverage-guided fuzzing from the seed files; libFuzzer ends the process when the time is up."""
    try:
        import atheris
    except ImportError:
        print("fuzz: atheris is not installed (pip install atheris)", file=sys.stderr)
        return 1
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(seeds()):
            Path(folder, f"seed-{i}").write_bytes(data)
        atheris.instrument_all()
        limits = [f"-max_total_time={seconds:.0f}"] if seconds else []
        atheris.Setup([sys.argv[0], f"-seed={seed}", "-max_len=8192", "-timeout=1", *limits, folder], tally.run)
        atheris.Fuzz()
    return 0


def main() -> int:
    """The command line; 0, or 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="cases (100,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long")
    parser.add_argument("--atheris", action="store_true", help="coverage-guided, with PyPI's atheris")
    args = parser.parse_args()
    if args.atheris:
        return fuzz_atheris(args.seed, args.seconds)
    start = time.perf_counter()
    tally = fuzz(args.count, args.seed, args.seconds)
    print(tally.line(time.perf_counter() - start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
