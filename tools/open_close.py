#!/usr/bin/env python3
"""Opens and closes a model again and again, and prints what the process has then: memory, threads, open files.

    python tools/open_close.py smollm2 -n 100
    python tools/open_close.py model.gguf -n 100 --drop      # objects are dropped, not closed

Figures: resident memory in MiB (VmRSS), Python's threads, file descriptors. The first rounds load code and fill
caches; what grows with every further round is lost. Exit status 1 where memory is `--slack` MiB, or threads or files
are any, above those of the tenth part of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
from pathlib import Path

from ggufpy import Llama


def figures() -> dict[str, float]:
    """What this process has now, on Linux."""
    status = Path("/proc/self/status").read_text()
    kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])
    threads = int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
    return {
        "rss_mib": round(kib / 1024, 1),
        "threads": threads,
        "python_threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


def one_round(model: str, options: dict[str, int], drop: bool) -> None:
    """Opens the model, has it write something, and lets it go."""
    llm = Llama(model, **options)  # type: ignore[arg-type]
    prompt = [1, 2, 3, 4, 5]
    llm.eval(prompt)
    llm.load_state(llm.save_state())
    stream = llm.generate(prompt, temp=0.0, limit=4)
    assert list(stream) or stream.finish == "stop"
    if not drop:
        llm.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", "--rounds", type=int, default=100)
    parser.add_argument("-c", "--n-ctx", type=int, default=0, help="context in tokens; 0: the model's")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--drop", action="store_true", help="drop objects without closing them, and without gc")
    parser.add_argument("--slack", type=float, default=16.0, metavar="MIB", help="memory that may come and go")
    args = parser.parse_args()
    if args.drop:
        gc.disable()
    seen: list[dict[str, float]] = []
    for i in range(args.rounds):
        one_round(args.model, {"n_ctx": args.n_ctx, "n_threads": args.threads}, args.drop)
        seen.append(figures())
        if i in (0, args.rounds // 10, args.rounds // 2, args.rounds - 1):
            print(f"round {i + 1}: {seen[-1]}", flush=True)
    before, after = seen[args.rounds // 10], seen[-1]
    grown = {name: round(after[name] - before[name], 1) for name in after}
    print(json.dumps({"rounds": args.rounds, "before": before, "after": after, "grown": grown}))
    lost = grown["rss_mib"] > args.slack or grown["threads"] > 0 or grown["files"] > 0
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
