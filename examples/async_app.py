"""An asyncio program: several chats stream at once, and all share the model's steps.

Usage: python examples/async_app.py [MODEL]

A web server does the same: `await` in its handlers, one `Llama` for all of them, `n_parallel` texts at once. A task
that is cancelled (a client that goes away) ends its text before the next step.
"""

import asyncio
import sys
import time

import ggufpy

QUESTIONS = ["Name three rivers.", "Name three birds.", "Name three cities.", "Name three colours."]
SYSTEM = {"role": "system", "content": "Answer in a few words."}


async def chat(llm: ggufpy.Llama, question: str) -> tuple[str, float]:
    """The answer, and after how many seconds its first word came."""
    start, first, answer = time.perf_counter(), 0.0, ""
    messages = [SYSTEM, {"role": "user", "content": question}]
    async for chunk in await llm.acreate_chat_completion(messages, max_tokens=60, temperature=0.0, stream=True):
        answer += chunk["choices"][0]["delta"].get("content", "")
        if answer and not first:
            first = time.perf_counter() - start
    return answer, first


async def main(model: str) -> None:
    with ggufpy.Llama(model, n_ctx=1024, n_parallel=len(QUESTIONS)) as llm:
        warm = await llm.acreate_chat_completion([SYSTEM, {"role": "user", "content": "Hi."}], max_tokens=8)
        print("ready:", warm["usage"]["total_tokens"], "tokens")
        start = time.perf_counter()
        answers = await asyncio.gather(*(chat(llm, question) for question in QUESTIONS))
        for question, (answer, first) in zip(QUESTIONS, answers, strict=True):
            print(f"{question} ({first:.2f} s to the first word) {answer!r}")
        print(f"{time.perf_counter() - start:.2f} s for all")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "smollm2"))
