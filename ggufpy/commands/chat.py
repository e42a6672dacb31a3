"""`ggufpy chat`: a conversation with a model, at a terminal or line by line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import (
    add_cache_arguments,
    add_default_model_argument,
    add_engine_arguments,
    add_load_options,
    add_option,
    add_sampling_arguments,
    add_speculation_arguments,
    check_speculation,
    load_options,
    report_machine,
    sampling_options,
)
from ggufpy.errors import GGUFError
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.commands._chat.conversation import Conversation
    from ggufpy.commands._chat.screen import Screen
    from ggufpy.commands._chat.session import Chat
    from ggufpy.commands._chat.settings import Settings
    from ggufpy.llm import Llama

HELP = "talk with a model"
DESCRIPTION = """Talk with a model: it answers what you write, and remembers the conversation.

At a terminal: Enter sends; Alt-Enter, Ctrl-J or "\\" at the end of a line begins another line. Ctrl-C stops an answer,
Ctrl-D leaves. /help lists the commands: /system, /save and /load, /regen, /undo, /params and others. What you write is
kept for later chats in a file that only you can read; --no-history keeps nothing.
Without a terminal each line of stdin is a message (or a /command), -st makes one message of all of it, and answers are
plain text. A line that cannot be answered ends the chat with exit status 1, Ctrl-C with 130.
--json prints one object instead of answers: messages, and for each answer in turns prompt, cached, tokens, rate (tokens
a second), seconds and finish ("stop", "length" or "interrupt").

examples:
  ggufpy chat                                       with the default model
  ggufpy chat model.gguf -sys "Answer in French." --temp 0.3 -c 8192
  ggufpy chat hf:owner/model-GGUF:Q4_K_M --load chat.json
  ggufpy chat model.gguf --reasoning off            where the template can switch thinking off
  printf 'My name is Ann.\\nWhat is my name?\\n' | ggufpy chat
  ggufpy chat -st < question.txt > answer.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chat`."""
    from ggufpy.commands._chat.settings import ChatOptions
    from ggufpy.support.options import declared

    add_default_model_argument(parser)
    parser.add_argument(
        "-sys", "--system-prompt", metavar="TEXT", help="instructions ahead of the conversation (in place of a file's)"
    )
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument(
        "-st",
        "--single-turn",
        action="store_true",
        help="answer one message and leave; without a terminal all of stdin is that message",
    )
    chat = declared(ChatOptions)
    add_option(parser, chat["max_tokens"])
    add_load_options(parser, "n_ctx")
    for name in ("reasoning", "reasoning_effort", "chat_template_kwargs", "thoughts"):
        add_option(parser, chat[name])
    parser.add_argument(
        "--no-markdown", dest="markdown", action="store_const", const=False, help="show answers as they stand"
    )
    parser.add_argument("--no-history", action="store_true", help="keep nothing of what is written for later chats")
    add_engine_arguments(parser)
    add_cache_arguments(parser)
    add_speculation_arguments(parser)
    add_sampling_arguments(parser, ignore_eos=False)


def run(args: argparse.Namespace) -> int:
    """Load, talk; returns the exit status."""
    from ggufpy.commands._chat.settings import Settings

    check_speculation(args)
    screen = _screen()
    if args.json and screen is not None:
        raise UsageError("--json is for messages on stdin")
    settings = Settings()
    conversation, settings = _conversation(args, settings)
    if screen is None and args.thoughts is None:
        settings = settings.with_values({"thoughts": "hide"})
    with load(args) as llm:
        if llm.chat_template is None:
            raise GGUFError("the model has no chat template: continue a text with 'ggufpy run --raw'")
        return _talk(args, llm, screen, conversation, settings)


def load(args: argparse.Namespace) -> Llama:
    """The model that was asked for."""
    from ggufpy.llm import Llama
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        return Llama.from_options(args.model, load_options(args, progress=progress))


def _screen() -> Screen | None:
    """A terminal for both what is said and what is answered, if it can be drawn on."""
    if not (console.is_terminal("stdin") and console.is_terminal("stdout")):
        return None
    from ggufpy.commands._chat.screen import Screen

    screen = Screen(descriptor=console.below(sys.stdout).fileno())
    return None if screen.console.is_dumb_terminal or screen.console.legacy_windows else screen


def _conversation(args: argparse.Namespace, settings: Settings) -> tuple[Conversation, Settings]:
    """What a file has, and over it what the command line says."""
    from ggufpy.commands._chat import saved
    from ggufpy.commands._chat.conversation import Conversation
    from ggufpy.commands._chat.settings import ChatOptions
    from ggufpy.support.clean import encodable
    from ggufpy.support.options import declared

    conversation = Conversation()
    if args.load is not None:
        conversation, settings = saved.load(args.load, settings)
    if args.system_prompt is not None:
        conversation = Conversation(encodable(args.system_prompt), conversation.messages)
    own = {name: getattr(args, name, None) for name in declared(ChatOptions)}
    given = {name: value for name, value in {**own, **sampling_options(args)}.items() if value is not None}
    return conversation, settings.with_values(given)


def _talk(
    args: argparse.Namespace, llm: Llama, screen: Screen | None, conversation: Conversation, settings: Settings
) -> int:
    from ggufpy.commands._chat import lines, slash
    from ggufpy.commands._chat.plain import Plain
    from ggufpy.commands._chat.session import Chat

    plain = Plain(quiet=args.json)
    chat = Chat(llm, conversation, settings, screen or plain)
    if args.load is not None:
        chat.out.note(slash.loaded(args.load, conversation, chat.used() or 0, llm.n_ctx()))
    status = 0
    if screen is None:
        chat.timings = args.verbose or console.is_terminal("stderr")
        status = lines.run(chat, plain, args.single_turn)
    else:
        from ggufpy.commands._chat import terminal

        terminal.run(chat, screen, not args.no_history, args.single_turn)
    if args.json:
        print(json.dumps(_report(chat)))
    if args.verbose:
        report_machine()
    return status


def _report(chat: Chat) -> dict[str, object]:
    """What `--json` prints."""
    return {"messages": chat.conversation.whole, "turns": [asdict(counts) for counts in chat.turns]}
