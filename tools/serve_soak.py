"""Many clients at once, of which half go at random moments: every text that comes to its end is what it is alone.

Usage: python tools/serve_soak.py [MODEL] [--requests 10000] [--streams 64] [--places 16] [--seed 1]
Prints whether texts differ, how long places stay taken, and what memory, threads and files have become.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

from serving.client import Answer, ask, get
from serving.process import Serving, serving

WORDS = ("river", "bird", "city", "colour", "stone", "cloud", "ship", "tree", "road", "lamp", "hill", "song")
KINDS = 150  # different requests
CONTEXT = 1024
WARM = 0.2  # of the requests, before memory is looked at


def bodies(choose: random.Random) -> list[dict[str, Any]]:
    """Requests, with seeds of their own; some begin alike, some are long."""
    made = []
    for i in range(KINDS):
        text = f"Write about a {choose.choice(WORDS)} and a {choose.choice(WORDS)}. "
        text += "Be brief. " * choose.choice((0, 1, 40))
        messages = [{"role": "user", "content": text}]
        made.append({"messages": messages, "seed": i, "temperature": 0.8, "max_tokens": choose.randint(4, 32)})
    return made


async def busy(port: int) -> int:
    """Requests that the server still has."""
    slots = json.loads(await get(port, "/slots"))
    return sum(slot["is_processing"] for slot in slots)


def filling(i: int) -> dict[str, Any]:
    """A request that fills a place's context: the system gives the cache's memory as it is touched."""
    messages = [{"role": "user", "content": f"{i} " + "The river runs to the sea. " * 135}]
    return {"messages": messages, "seed": i, "max_tokens": CONTEXT, "ignore_eos": True}


async def soak(server: Serving, args: argparse.Namespace) -> int:
    choose = random.Random(args.seed)
    some = bodies(choose)
    await asyncio.gather(*(ask(server.port, filling(i)) for i in range(args.places)))
    alone = [(await ask(server.port, body)).text for body in some]
    clock = time.monotonic()
    left, wrong, done, dropped, before = args.requests, 0, 0, 0, (0, 0, 0)
    broken: list[Answer] = []
    sizes: list[float] = []  # MiB, at each tenth

    async def client() -> None:
        nonlocal left, wrong, done, dropped, before
        while left > 0:
            left -= 1
            if left % (args.requests // 10) == 0:
                sizes.append(server.resident() / 2**20)
            if left == int(args.requests * (1 - WARM)):
                before = (server.resident(), server.threads(), server.files())
            kind = choose.randrange(KINDS)
            drop = choose.expovariate(1 / args.patience) if choose.random() < 0.5 else None
            answer = await ask(server.port, some[kind], drop)
            if answer.dropped:
                dropped += 1
            elif answer.status != 200 or not answer.ended:
                broken.append(answer)
            else:
                done += 1
                wrong += answer.text != alone[kind]

    await asyncio.gather(*(client() for _ in range(args.streams)))
    ended = time.monotonic()
    while await busy(server.port):
        await asyncio.sleep(0.02)
    free = time.monotonic() - ended
    await asyncio.sleep(1)
    after = (server.resident(), server.threads(), server.files())
    print(f"{args.requests} requests in {ended - clock:.0f} s: {done} whole, {dropped} dropped, {len(broken)} broken")
    for answer in broken[:3]:
        print(f"  broken: {answer.status} {bytes(answer.body[-300:])!r}")
    print(f"texts that differ from what they are alone: {wrong} of {done}")
    print(f"places free {free:.2f} s behind the last request")
    drift = after[0] / before[0] - 1
    print(f"memory {before[0] / 2**20:.1f} -> {after[0] / 2**20:.1f} MiB ({100 * drift:+.1f} %)")
    print("memory by tenths:", ", ".join(f"{size:.1f}" for size in sizes), "MiB")
    print(f"threads {before[1]} -> {after[1]}, files {before[2]} -> {after[2]} (while {args.streams} were open)")
    return int(bool(wrong or broken) or free > 2 or drift > 0.02)


def main() -> int:
    """Run it; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--patience", type=float, default=0.7, help="seconds after which a client goes, on average")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with serving(args.model, "-np", str(args.places), "-c", str(CONTEXT), "--queue", "256") as server:
        return asyncio.run(soak(server, args))


if __name__ == "__main__":
    raise SystemExit(main())
