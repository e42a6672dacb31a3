"""Eight texts at once by llama.cpp's server within xllamacpp: for each line of stdin a run, and its tokens a second.

Usage: python peer.py MODEL TOKENS
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import xllamacpp

from ggufpy.hub import resolve
from ggufpy.support.cores import default_threads

STREAMS = 8


def main(model: str, tokens: int) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = str(resolve(model))
    params.n_ctx, params.n_parallel = 1024 * STREAMS, STREAMS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = default_threads()
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)

    def one(i: int, most: int) -> int:
        body = {
            "messages": [{"role": "user", "content": f"Write a long story, number {i}."}], "max_tokens": most,
            "seed": i, "temperature": 0.8, "ignore_eos": True, "stream": False,
        }  # fmt: skip
        answer = server.handle_chat_completions(body)
        return int(answer["usage"]["completion_tokens"])

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(lambda i: one(i, 16), range(STREAMS)))
        print("ready", flush=True)
        while sys.stdin.readline():
            start = time.perf_counter()
            count = sum(pool.map(lambda i: one(i, tokens), range(STREAMS)))
            print(count / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
