"""Several questions at once: threads share one model, whose steps take a token of each text.

Usage: python examples/threads.py [MODEL]
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ggufpy

QUESTIONS = ["Name a river.", "Name a bird.", "Name a city.", "Name a colour."]


def main(model: str) -> None:
    with ggufpy.Llama(model, n_ctx=1024, n_parallel=len(QUESTIONS)) as llm, ThreadPoolExecutor() as pool:

        def answer(question: str) -> str:
            out = llm.create_chat_completion([{"role": "user", "content": question}], 40, temperature=0.0)
            return str(out["choices"][0]["message"]["content"])

        start = time.perf_counter()
        for question, text in zip(QUESTIONS, pool.map(answer, QUESTIONS), strict=True):
            print(f"{question}  {text!r}")
        print(f"{time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
