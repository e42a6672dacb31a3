"""`ggufpy chat` around a model that answers as it is told to, and a terminal that can be looked at.

`python tests/chat_fakes.py [arguments of chat]` is the program. What the model says depends on the first word of the
last message; a token is a word here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MARKDOWN = """# Title

Some **bold** text.

| Name | Value |
|------|------:|
| left | 12 |

```python
x = 1
```
"""
HOSTILE = (
    "red \x1b[31m title \x1b]0;owned\x07 clear \x1b[2J c1 \x9b2J back\x08\x08 return\rover \u202edriew "
    "[l](&#27;[2J) &#13; end"
)


class FakeModel:
    """The part of `ggufpy.Llama` that a chat needs."""

    name = "/models/tiny\x1b[2J-model.gguf"
    chat_template = "a template"

    def __init__(self, n_ctx: int = 200) -> None:
        self._n_ctx = n_ctx
        self.n_tokens = 0
        self.calls: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []
        self._evaluated: list[int] = []

    def n_ctx(self) -> int:
        return self._n_ctx

    def n_vocab(self) -> int:
        return 258

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], offer: None = None, **variables: Any) -> Any:
        return SimpleNamespace(tokens=self._tokens(messages))

    def _tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return [hash(word) for message in messages for word in [message["role"], *message["content"].split(), "end"]]

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        assert stream
        assert options.pop("stream_options") == {"include_usage": True}
        self.calls.append(([dict(message) for message in messages], {**options, "max_tokens": max_tokens}))
        prompt = self._tokens(messages)
        cached = 0
        while cached < min(len(prompt) - 1, len(self._evaluated)) and prompt[cached] == self._evaluated[cached]:
            cached += 1
        self._evaluated, self.n_tokens = prompt, len(prompt)
        return self._chunks(messages, prompt, cached, max_tokens, options)

    def _chunks(
        self, messages: Sequence[Any], prompt: list[int], cached: int, most: int | None, options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        yield _chunk({"role": "assistant", "content": None})
        count, finish = 0, "stop"
        for key, text, pause in self._said(messages, options):
            if (most and count >= most) or len(prompt) + count >= self._n_ctx:
                finish = "length"
                break
            time.sleep(pause)
            count += 1
            self.n_tokens = len(prompt) + count - 1
            yield _chunk({key: text})
        yield _chunk({}, finish)
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        yield {"choices": [], "usage": {**usage, "prompt_tokens_details": details}}

    def _said(self, messages: Sequence[Any], options: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
        """Pieces of an answer: their field, text, and the seconds that they take."""
        said = messages[-1]["content"]
        word = said.split()[0] if said.split() else ""
        if word == "think":
            yield from (("reasoning_content", f"thought{i} ", 0.0) for i in range(5))
        if word == "stuck":
            time.sleep(60)
        if word == "slow":
            yield from (("content", f"word{i} ", 0.01) for i in range(500))
        texts = {
            "markdown": MARKDOWN,
            "hostile": HOSTILE,
            "lines": "\n\n".join(f"line {i}" for i in range(60)),
            "code": "```python\n" + "\n".join(f"x{i} = {i}" for i in range(60)) + "\n```\n",
        }
        echo = f"heard {said!r} in {len(messages)} messages {sorted(options.items())}"
        for part in re.findall(r"\S+\s*|\s+", texts.get(word, echo)):
            yield "content", part, 0.0

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


class Terminal:
    """The program in a terminal that is emulated: keys go in, and what is on the screen can be read."""

    def __init__(self, *words: str, size: tuple[int, int] = (80, 24), script: str = __file__, **environ: str) -> None:
        import pexpect
        import pyte

        columns, rows = size
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "", **environ}
        env.pop("NO_COLOR", None) if "NO_COLOR" not in environ else None
        self.raw = ""
        self.emulated = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.Stream(self.emulated)
        self.child = pexpect.spawn(
            sys.executable, [script, *words], dimensions=(rows, columns), env=env, encoding="utf-8", timeout=60
        )
        self.child.delaybeforesend = None

    def read(self, seconds: float = 0.05) -> None:
        """Takes what the program writes, and answers when it asks where the cursor is."""
        import pexpect

        try:
            text = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            return
        self.raw += text
        self._stream.feed(text)
        if "\x1b[6n" in text:
            self.child.send(f"\x1b[{self.emulated.cursor.y + 1};{self.emulated.cursor.x + 1}R")

    @property
    def shown(self) -> list[str]:
        """The lines in the window."""
        return [line.rstrip() for line in self.emulated.display]

    @property
    def lines(self) -> list[str]:
        """All lines, those above the window too."""
        width = self.emulated.columns
        above = ["".join(line[x].data for x in range(width)) for line in self.emulated.history.top]
        return [line.rstrip() for line in above] + self.shown

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait(self, wanted: str | Callable[[], bool], seconds: float = 30.0) -> None:
        """Until a text is on the screen, or something is so."""
        end = time.monotonic() + seconds
        while not (wanted in self.text if isinstance(wanted, str) else wanted()):
            assert time.monotonic() < end, f"no {wanted} in\n{self.text}"
            self.read()

    def prompt(self) -> None:
        """Until the program waits for a message: an empty prompt above the toolbar."""
        self.wait(lambda: self.at_prompt)

    @property
    def at_prompt(self) -> bool:
        cursor = self.emulated.cursor
        return cursor.y < self.emulated.lines and self.shown[cursor.y] == ">" and cursor.x == 2

    def keys(self, text: str) -> None:
        self.child.send(text)

    def say(self, text: str) -> None:
        """A message, and until it is answered."""
        self.prompt()
        self.keys(text)
        self.wait(lambda: text[-8:] in self.shown[self.emulated.cursor.y])
        self.keys("\r")
        self.wait(lambda: not self.at_prompt)
        self.prompt()

    def resize(self, columns: int, rows: int) -> None:
        self.child.setwinsize(rows, columns)
        self.emulated.resize(rows, columns)

    def end(self) -> int:
        """The exit status."""
        end = time.monotonic() + 60
        while self.child.isalive() and time.monotonic() < end:
            self.read()
        self.read()
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -1

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.close(force=True)


def main() -> None:
    """The program; -c is the context of the model."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from ggufpy import cli
    from ggufpy.commands import chat

    chat.load = lambda args: FakeModel(args.n_ctx or 200)  # type: ignore[assignment,return-value]
    sys.exit(cli.main(["chat", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
