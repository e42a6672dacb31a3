"""The shortest program: a text goes on, then a question is answered as it is written.

Usage: python examples/script.py [MODEL]
"""

import sys

import ggufpy


def main(model: str) -> None:
    with ggufpy.Llama(model) as llm:
        prompt = "The capital of France is"
        out = llm(prompt, max_tokens=12, temperature=0.0, stop="\n")
        print(prompt + out["choices"][0]["text"])
        print(out["usage"]["prompt_tokens"], "tokens read,", out["usage"]["completion_tokens"], "written")

        messages = [{"role": "user", "content": "What is a transformer, in one sentence?"}]
        for chunk in llm.create_chat_completion(messages, max_tokens=80, seed=1, stream=True):
            print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
