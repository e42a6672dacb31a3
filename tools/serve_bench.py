"""How quick `ggufpy serve` is: streams side by side, the first token behind a long prompt, what HTTP costs, idling.

Usage: python tools/serve_bench.py [MODEL] [--turns 5] [--tokens 96] [--only streams,first,http,idle,peer]
Each figure is a median; what is compared is measured in turns. The peer is llama.cpp's server within xllamacpp, in a
process of its own and without HTTP, which is to its advantage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serving.client import Answer, ask
from serving.process import Serving, serving

PARTS = ("streams", "first", "http", "idle", "peer")


def body(i: int, tokens: int, text: str = "") -> dict[str, Any]:
    """A request that makes as many tokens as it may: end tokens cannot come."""
    messages = [{"role": "user", "content": text or f"Write a long story, number {i}."}]
    return {"messages": messages, "max_tokens": tokens, "seed": i, "temperature": 0.8, "ignore_eos": True}


async def rate(port: int, streams: int, tokens: int) -> float:
    """Tokens a second of so many streams together."""
    start = time.perf_counter()
    answers = await asyncio.gather(*(ask(port, body(i, tokens)) for i in range(streams)))
    seconds = time.perf_counter() - start
    return _count(answers, tokens) / seconds


def _count(answers: Sequence[Answer], tokens: int) -> int:
    assert all(a.ended and a.tokens == tokens for a in answers), [(a.status, bytes(a.body[-200:])) for a in answers]
    return sum(a.tokens for a in answers)


async def streams(server: Serving, args: argparse.Namespace) -> None:
    """1, 8 and 64 streams in turns."""
    rates: dict[int, list[float]] = {1: [], 8: [], 64: []}
    await rate(server.port, 8, 16)
    for _ in range(args.turns):
        for count, made in rates.items():
            made.append(await rate(server.port, count, args.tokens))
    one, eight, many = (statistics.median(made) for made in rates.values())
    print(f"streams, t/s: 1 {one:.1f}; 8 {eight:.1f}, {eight / one:.2f} times; 64 {many:.1f}, {many / one:.2f} times")


async def first(server: Serving, args: argparse.Namespace) -> None:
    """A short prompt while a long one is read: from when it is sent to its first token."""
    alone, behind, reads = [], [], []
    for turn in range(args.turns):
        text = f"{turn} " + "The river runs to the sea. " * 570  # 4,000 tokens
        long = asyncio.create_task(ask(server.port, body(turn, 1, text)))
        await asyncio.sleep(0.1)
        answer = await ask(server.port, body(100 + turn, 4, f"{turn}: hello"))
        behind.append(answer.times[1] - answer.asked)
        whole = await long
        reads.append(whole.times[1] - whole.asked)
        answer = await ask(server.port, body(200 + turn, 4, f"{turn}. hello"))
        alone.append(answer.times[1] - answer.asked)
    short, late, read = (1e3 * statistics.median(each) for each in (alone, behind, reads))
    print(f"first token: alone {short:.0f} ms, behind a prompt of 4,000 tokens {late:.0f} ms; that one {read:.0f} ms")


async def idle(server: Serving) -> None:
    """CPU of a server that nobody asks."""
    await asyncio.sleep(2)
    start, clock = server.cpu_seconds(), time.monotonic()
    await asyncio.sleep(20)
    used = (server.cpu_seconds() - start) / (time.monotonic() - clock)
    print(f"idle: {100 * used:.2f} % of a core")


@contextmanager
def beside(script: str, args: argparse.Namespace) -> Iterator[Callable[[], float]]:
    """A process of `serving/` that is ready; called, it makes one run and says its figure."""
    path = os.path.join(os.path.dirname(__file__), "serving", script)
    command = [sys.executable, path, args.model, str(args.tokens)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told, says = process.stdin, process.stdout

    def run() -> float:
        told.write("\n")
        told.flush()
        return float(says.readline())

    says.readline()
    yield run
    told.close()
    process.wait()


def http(args: argparse.Namespace) -> None:
    """64 streams over HTTP, and the same work in one process without: milliseconds a token, in turns."""
    over, without = [], []
    with beside("inside.py", args) as inside, serving(args.model, "-np", "64", "-c", "512") as server:
        asyncio.run(rate(server.port, 64, 8))
        for _ in range(args.turns):
            over.append(1e3 / asyncio.run(rate(server.port, 64, args.tokens)))
            without.append(inside())
    a, b = statistics.median(over), statistics.median(without)
    print(f"HTTP at 64 streams: {a:.3f} ms a token, {b:.3f} without, so {a - b:.3f} ms (the client's work is in it)")


def peer(args: argparse.Namespace) -> None:
    """Eight streams here and of llama.cpp's server, in turns."""
    ours, theirs = [], []
    with beside("peer.py", args) as other, serving(args.model, "-np", "8", "-c", "1024") as server:
        asyncio.run(rate(server.port, 8, 16))
        for _ in range(args.turns):
            ours.append(asyncio.run(rate(server.port, 8, args.tokens)))
            theirs.append(other())
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"8 streams: {a:.1f} t/s over HTTP, llama.cpp's server without HTTP {b:.1f} t/s: {a / b:.2f} times")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--only", default=",".join(PARTS))
    args = parser.parse_args()
    wanted = args.only.split(",")
    if {"streams", "idle"} & {*wanted}:
        with serving(args.model, "-np", "64", "-c", "512") as server:
            if "streams" in wanted:
                asyncio.run(streams(server, args))
            if "idle" in wanted:
                asyncio.run(idle(server))
    if "first" in wanted:
        with serving(args.model, "-np", "4", "-c", "8192") as server:
            asyncio.run(first(server, args))
    if "http" in wanted:
        http(args)
    if "peer" in wanted:
        peer(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
