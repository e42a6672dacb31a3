"""A chat in the terminal: answers stream as they are written, and the conversation is remembered.

Run it with `python examples/stream.py [MODEL]`; an empty line or Ctrl-D ends it.
"""

from __future__ import annotations

import sys

import ggufpy


def main() -> int:
    """Ask, answer, repeat."""
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    messages: list[dict[str, str]] = []
    with ggufpy.Llama(model) as llm:
        while question := _ask():
            messages.append({"role": "user", "content": question})
            answer = ""
            for chunk in llm.create_chat_completion(messages, max_tokens=256, temperature=0.7, stream=True):
                text = chunk["choices"][0]["delta"].get("content", "")
                print(text, end="", flush=True)
                answer += text
            print()
            # what the context already holds of the conversation is not evaluated again
            messages.append({"role": "assistant", "content": answer})
    return 0


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except ggufpy.GGUFError as error:
        raise SystemExit(f"stream: {error}") from None
