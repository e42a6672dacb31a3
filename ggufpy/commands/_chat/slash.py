"""The /commands of a chat: a table of what there is, and what each does."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ggufpy.commands._chat import saved
from ggufpy.commands._chat.conversation import Conversation
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.clean import one_line

if TYPE_CHECKING:
    from ggufpy.commands._chat.session import Chat

KEYS = """
Enter sends. Alt-Enter, Ctrl-J or "\\" at the end of a line begins another line.
Up and Ctrl-R find what you said before; Tab completes commands.
Ctrl-C stops an answer, or clears the line; twice, or Ctrl-D, leaves.
"//" begins a message that begins with "/"."""


class Command(NamedTuple):
    """One command: what it is called, what it takes, what it does."""

    names: tuple[str, ...]
    takes: str
    help: str
    run: Callable[[Chat, str], None]


def run(chat: Chat, line: str) -> None:
    """Does what a line that begins with "/" says. Raises GGUFError for what cannot be done."""
    word, _, rest = line[1:].strip().partition(" ")
    known = {name: command for command in COMMANDS for name in command.names}
    name = word.partition("\n")[0]
    command = known.get(name)
    if command is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise GGUFError(f"no command /{one_line(name)[:40]} ({hint}); to send a text that begins with '/', write '//'")
    text = rest.strip() if word == name else line[1:].strip()[len(name) :].strip()
    if text and not command.takes:
        raise GGUFError(f"/{name} takes nothing after it")
    command.run(chat, text)


def _help(chat: Chat, text: str) -> None:
    rows = [(" ".join(f"/{name}" for name in each.names) + f" {each.takes}", each.help) for each in COMMANDS]
    width = max(len(head) for head, _ in rows)
    chat.out.say("\n".join(f"{head:<{width}}  {about}" for head, about in rows))
    chat.out.note(KEYS)


def _system(chat: Chat, text: str) -> None:
    if not text:
        chat.out.say(chat.conversation.system or "no system prompt; /system TEXT sets one")
        return
    told = None if text == "-" else text
    chat.conversation = Conversation(told, chat.conversation.messages)
    count = len(chat.conversation.exchanges)
    kept = f"; the conversation of {_exchanges(count)} goes on with it (/reset begins anew)" if count else ""
    chat.out.note(("no system prompt any more" if told is None else "system prompt set") + kept)


def _reset(chat: Chat, text: str) -> None:
    count = len(chat.conversation.exchanges)
    chat.conversation, chat.counts = chat.conversation.cleared(), None
    kept = "" if chat.conversation.system is None else "; the system prompt stays"
    chat.out.note(f"{_exchanges(count)} forgotten{kept}")


def _save(chat: Chat, text: str) -> None:
    path = _file(text, "save")
    saved.save(path, chat.conversation, chat.settings, chat.llm.name)
    changed = len(chat.settings.values())
    some = f" and {changed} setting{'s' * (changed != 1)}" if changed else ""
    chat.out.note(f"{_exchanges(len(chat.conversation.exchanges))}{some} saved to {path}")


def _load(chat: Chat, text: str) -> None:
    path = _file(text, "load")
    conversation, settings = saved.load(path, chat.settings)
    settings.check_tokens(chat.llm.n_vocab())
    count = chat.count(conversation.whole) if conversation.whole else 0
    chat.conversation, chat.settings, chat.counts = conversation, settings, None
    chat.out.note(loaded(path, conversation, count, chat.llm.n_ctx()))


def loaded(path: str, conversation: Conversation, count: int, n_ctx: int) -> str:
    """What came of a file."""
    line = f"{_exchanges(len(conversation.exchanges))} ({count:,} of {n_ctx:,} tokens) loaded from {path}"
    if conversation.messages and conversation.messages[-1]["role"] == "user":
        line += "; the last message has no answer yet: /regen gives one"
    return line


def _regen(chat: Chat, text: str) -> None:
    chat.again()


def _undo(chat: Chat, text: str) -> None:
    chat.conversation, said = chat.conversation.undone()
    chat.counts = None
    chat.out.note(f"taken back: {_shortly(said)}")


def _drop(chat: Chat, text: str) -> None:
    count = 1
    if text:
        try:
            count = checks.whole("the number after /drop", int(text), 1)
        except ValueError:
            raise GGUFError(f"/drop takes how many exchanges to forget, not {checks.shown(text)}") from None
    there = len(chat.conversation.exchanges)
    if count > there:
        raise GGUFError(f"there are only {_exchanges(there)} to drop" if there else "there is no exchange to drop")
    chat.conversation, chat.counts = chat.conversation.without_oldest(count), None
    chat.out.note(f"{_exchanges(count)} dropped, {there - count} left")


def _params(chat: Chat, text: str) -> None:
    if text:
        settings = chat.settings.with_words(text.split())
        settings.check_tokens(chat.llm.n_vocab())
        chat.settings = settings
        changed = " ".join(f"{name}={value}" for name, value in settings.values().items())
        chat.out.note(f"now {changed}" if changed else "now all as by default")
        return
    rows = list(chat.settings.rows())
    wide = max(len(name) for name, _, _ in rows)
    chat.out.say("\n".join(f"{name:<{wide}}  {value:<8}  {about}" for name, value, about in rows))
    chat.out.note("* is not the default; /params temp=0.3 top_p=0.9 changes some, /params temp=default takes it back")


def _tokens(chat: Chat, text: str) -> None:
    messages = chat.conversation.whole
    count, n_ctx = chat.count(messages) if messages else 0, chat.llm.n_ctx()
    system = "" if chat.conversation.system is None else "a system prompt and "
    share = 100 * count / n_ctx
    there = _exchanges(len(chat.conversation.exchanges))
    chat.out.say(f"{count:,} of {n_ctx:,} tokens ({share:.0f} %): {system}{there}")


def _exit(chat: Chat, text: str) -> None:
    chat.over = True


def _file(text: str, name: str) -> str:
    """The name of a file, which may stand in quotes."""
    path = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if not path:
        raise GGUFError(f"/{name} wants the name of a file: /{name} chat.json")
    return path


def _exchanges(count: int) -> str:
    return f"{count} exchange{'s' * (count != 1)}"


def _shortly(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= 60 else f"{line[:57]}..."


COMMANDS = (
    Command(("help",), "", "this list", _help),
    Command(("system",), "[TEXT]", "show the instructions, or give others ('-': none)", _system),
    Command(("reset",), "", "forget the conversation; the instructions stay", _reset),
    Command(("save",), "FILE", "write the conversation and the settings to a file", _save),
    Command(("load",), "FILE", "go on with those of a file", _load),
    Command(("regen",), "", "answer the last message again, with another seed", _regen),
    Command(("undo",), "", "take the last exchange back", _undo),
    Command(("drop",), "[N]", "forget the oldest exchange, or the oldest N, to make room", _drop),
    Command(("params",), "[NAME=VALUE ...]", "show the settings, or change some", _params),
    Command(("tokens", "context"), "", "how much of the context is taken", _tokens),
    Command(("exit", "quit"), "", "leave", _exit),
)
