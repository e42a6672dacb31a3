"""The work of 64 streams in one process, without HTTP: for each line of stdin a run, and its milliseconds a token.

Usage: python inside.py MODEL TOKENS
"""

from __future__ import annotations

import asyncio
import sys
import time

from ggufpy.api.openai import asked
from ggufpy.api.openai.chat import ChatShape
from ggufpy.llm import Llama
from ggufpy.server.served import Served
from ggufpy.server.work import Prepared, Work

STREAMS = 64


async def main(model: str, tokens: int) -> None:
    llm = await asyncio.to_thread(lambda: Llama(model, n_ctx=512, n_parallel=STREAMS))
    served = Served("inside", llm, STREAMS)

    async def one(i: int, most: int) -> None:
        options = {"seed": i, "temperature": 0.8, "logit_bias": {llm.token_eos(): -100.0}}
        messages = [{"role": "user", "content": f"Write a long story, number {i}."}]
        made = await asyncio.to_thread(asked.chat_request, llm, messages, most, options)
        async for _ in Work(served, Prepared(made, ChatShape(llm, made), True), "").deltas():
            pass

    await asyncio.gather(*(one(i, 8) for i in range(STREAMS)))
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        start = time.perf_counter()
        await asyncio.gather(*(one(i, tokens) for i in range(STREAMS)))
        print(1e3 * (time.perf_counter() - start) / STREAMS / tokens, flush=True)
    await asyncio.to_thread(served.close)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
