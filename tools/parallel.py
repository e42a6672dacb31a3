"""Tokens a second of one call and of several threads calling one `Llama`, in turns, and whether each text is as alone.

Usage: python tools/parallel.py [MODEL] [--threads 8] [--tokens 128] [--turns 5] [--temp 0.8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ggufpy

WORDS = ("river", "bird", "city", "colour", "stone", "cloud", "ship", "tree", "road", "lamp", "hill", "song")


def main() -> int:
    """Measure and print; 1 where a text differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--temp", type=float, default=0.8)
    args = parser.parse_args()
    prompts = [f"Write about a {WORDS[i % len(WORDS)]}, number {i}." for i in range(args.threads)]
    with ggufpy.Llama(args.model, n_ctx=1024, n_parallel=args.threads) as llm, ThreadPoolExecutor(args.threads) as pool:

        def answer(i: int) -> str:
            messages = [{"role": "user", "content": prompts[i]}]
            stop: dict[str, Any] = {"temperature": args.temp, "seed": i, "logit_bias": {llm.token_eos(): -100.0}}
            out: Any = llm.create_chat_completion(messages, args.tokens, **stop)
            return str(out["choices"][0]["message"]["content"])

        alone = [answer(i) for i in range(args.threads)]
        single, several, wrong = [], [], 0
        for _ in range(args.turns):
            start = time.perf_counter()
            answer(0)
            single.append(args.tokens / (time.perf_counter() - start))
            start = time.perf_counter()
            texts = list(pool.map(answer, range(args.threads)))
            several.append(args.threads * args.tokens / (time.perf_counter() - start))
            wrong += sum(a != b for a, b in zip(texts, alone, strict=True))
    one, all_ = statistics.median(single), statistics.median(several)
    print(f"one {one:.1f} t/s, {args.threads} threads {all_:.1f} t/s: {all_ / one:.2f} times; {wrong} texts differ")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
