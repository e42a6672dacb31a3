"""A chat at a terminal: messages are edited with prompt_toolkit, answers drawn by `screen`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.styles import Style

from ggufpy.commands._chat import history, slash
from ggufpy.commands._chat.screen import Screen
from ggufpy.commands._chat.session import Chat
from ggufpy.commands._chat.settings import names
from ggufpy.errors import GGUFError
from ggufpy.support import console

if sys.platform != "win32":
    import termios

PROMPT, FURTHER = "> ", ". "
STYLE = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse ansibrightblack"})


def run(chat: Chat, screen: Screen, keep_history: bool, single: bool) -> None:
    """Takes messages until the user leaves, or if `single` one is answered."""
    prompt = Prompt(chat, screen, keep_history)
    screen.note(f"{chat.model}, context of {chat.llm.n_ctx():,} tokens; /help lists commands, Ctrl-D leaves")
    while not (chat.over or (single and chat.turns)):
        try:
            text = prompt.ask()
        except (EOFError, KeyboardInterrupt):
            return
        screen.say("")
        try:
            with silent_keys():
                chat.take(text)
        except KeyboardInterrupt:  # between answers: while a prompt is made, or a file is read
            screen.note("stopped")
        except (GGUFError, MemoryError) as error:
            screen.error(str(error) or "not enough memory: try a smaller -c, or a smaller model")
        screen.say("")


@contextmanager
def silent_keys() -> Iterator[None]:
    """Within it keys are not echoed, which would be in the midst of what is drawn; the next prompt gets them.

    A terminal forgets them at Ctrl-C, as it always does.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


class Prompt:
    """Where messages are written."""

    def __init__(self, chat: Chat, screen: Screen, keep_history: bool) -> None:
        self._chat = chat
        self._leaving = False  # Ctrl-C was the last key
        past = history.PrivateHistory(history.path(), screen.note) if keep_history else InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", PROMPT)],
            multiline=True,
            prompt_continuation=FURTHER,
            history=past,
            completer=_Commands(),
            complete_while_typing=Condition(self._is_command),
            key_bindings=self._keys(),
            bottom_toolbar=self._toolbar,
            style=STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
            output=create_output(stdout=console.below(sys.stdout)),
        )
        self._session.default_buffer.on_text_changed += self._changed

    def ask(self) -> str:
        """The next message or command. EOFError or KeyboardInterrupt where the user leaves."""
        draft, self._chat.draft = self._chat.draft, ""
        self._leaving = False
        return self._session.prompt(default=draft)

    def _changed(self, buffer: Buffer) -> None:
        self._leaving = False

    def _is_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and not text.startswith("//") and "\n" not in text

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        here = has_focus(DEFAULT_BUFFER)

        @keys.add("enter", filter=here)
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
                buffer.delete_before_cursor()
                buffer.newline(copy_margin=False)
            elif buffer.text.strip():
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=here)
        @keys.add("c-j", filter=here)
        def _newline(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("c-c", filter=here)
        @keys.add("<sigint>", filter=here)
        def _clear(event: KeyPressEvent) -> None:
            if self._leaving:
                event.app.exit(exception=KeyboardInterrupt())
                return
            event.current_buffer.reset()
            self._leaving = True

        return keys

    def _toolbar(self) -> AnyFormattedText:
        """What there is room for of the model's name, the context that is taken and the speed of the last answer."""
        chat, width = self._chat, self._session.output.get_size().columns
        if self._leaving:
            return [("", "Ctrl-C again leaves"[:width])]
        used, n_ctx = chat.used(), chat.llm.n_ctx()
        parts = [] if used is None else [f"context {used:,}/{n_ctx:,} ({100 * used / n_ctx:.0f} %)"]
        if chat.counts is not None and chat.counts.rate:
            parts.append(f"{chat.counts.rate:.1f} t/s")
        line = "  ".join(parts)
        if len(chat.model) + 2 + len(line) <= width:
            line = "  ".join([chat.model, *parts])
        return [("", line[:width])]


class _Commands(Completer):
    """Completes /commands, names of parameters and of files."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See prompt_toolkit."""
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        word, space, rest = text[1:].partition(" ")
        if not space:
            for command in slash.COMMANDS:
                for name in command.names:
                    if name.startswith(word):
                        yield Completion(name, -len(word), display=f"/{name}", display_meta=command.help)
        elif word in ("save", "load"):
            yield from self._paths.get_completions(Document(rest), complete_event)
        elif word == "params":
            last = rest.rpartition(" ")[2]
            for name in names():
                if name.startswith(last):
                    yield Completion(f"{name}=", -len(last), display=name)
