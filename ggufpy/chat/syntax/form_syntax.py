"""A syntax that is a form: its parser and its grammar."""

from __future__ import annotations

from ggufpy.chat.syntax.base import Parser, Syntax, Tools
from ggufpy.chat.syntax.form import Form
from ggufpy.chat.syntax.form_grammar import FormGrammar
from ggufpy.chat.syntax.form_parser import FormReader
from ggufpy.chat.syntax.lark import Control
from ggufpy.chat.syntax.markers import tokens_of
from ggufpy.chat.syntax.ongoing import schemas
from ggufpy.chat.syntax.output import Output
from ggufpy.chat.syntax.reader import Reader
from ggufpy.chat.tools import Offer


class FormSyntax(Syntax):
    """What `form` says. header: the text with which an assistant's message begins in the prompt."""

    def __init__(self, name: str, form: Form, header: str = "") -> None:
        self.name = name
        self.form = form
        self.header = header
        self.markers = tokens_of(_texts(form))

    def parser(self, prompt: str, tools: Tools | None = None) -> Parser:
        reader, output = Reader(), Output(self.form.make_id)
        for calls in self.form.calls:
            if calls.lead and prompt.endswith(calls.lead):
                reader.push(calls.lead)
                break
        steps = FormReader(self.form, reader, output, schemas(tools)).message(self.thinks(prompt))
        return Parser(reader, output, steps)

    def lark(self, offer: Offer, prompt: str, control: Control) -> str | None:
        return FormGrammar(self.form, offer, control).text(self.thinks(prompt), prompt)

    def answer_after(self, prompt: str) -> str | None:
        thoughts = self.form.thoughts
        return thoughts.closes.strip() if thoughts is not None and self.thinks(prompt) else None

    def thinks(self, prompt: str) -> bool:
        """Whether the end of `prompt` has begun a thought."""
        thoughts = self.form.thoughts
        if thoughts is None:
            return False
        opens, closes = thoughts.opens.strip(), thoughts.closes.strip()
        found = prompt.rfind(self.header) if self.header else -1
        if found < 0:
            return bool(opens) and prompt.rstrip().endswith(opens)
        message = prompt[found + len(self.header) :]
        if not opens:
            return closes not in message
        return message.lstrip().startswith(opens) and message.rfind(opens) > message.rfind(closes)


def _texts(form: Form) -> list[str]:
    """All texts that the parser looks for."""
    texts = [form.thoughts.opens, form.thoughts.closes] if form.thoughts else []
    for calls in form.calls:
        texts += [calls.opens, *(text for part in calls.parts for text in part.texts()), calls.closes]
    return [text.strip() for text in (*texts, *form.wraps)]
