"""The grammar of a form: free text, thoughts, and calls of the tools that are offered."""

from __future__ import annotations

import re

from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_parser import leading
from ggufpy.chat.syntax.lark import Control, Lark, Tool, quoted
from ggufpy.chat.tools import Offer
from ggufpy.errors import GGUFError

_HEAD = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Z_]+\])")
_ANY = "(?s:.*)"


class FormGrammar:
    """Writes the rules for one offer."""

    def __init__(self, form: Form, offer: Offer, control: Control) -> None:
        self._form = form
        self._offer = offer
        self._lark = Lark(control)

    def text(self, thinking: bool, prompt: str) -> str | None:
        """The grammar of what follows a prompt; None where all is free. Raises GGUFError if a call must be made and
        the form has none."""
        offer, lark = self._offer, self._lark
        if offer.choice == "none" or not offer.tools:
            return None
        if not self._form.calls:
            if offer.must_call:
                raise GGUFError(f"tool_choice {offer.choice!r}: this model's chat template shows no calls of tools")
            return None
        calls = self._form.calls[0]
        lark.rule("start", "")  # it comes first; written below
        lead = calls.lead if calls.lead and prompt.endswith(calls.lead) else ""
        body = self._required(calls, lead) if offer.must_call else self._auto(calls, lead, thinking)
        lark.rule("start", f"{self._thoughts(thinking)} {body}".strip())
        return lark.grammar()

    # -- calls --

    def _call(self, calls: Calls) -> str:
        """A rule for any of the calls, without the text that each begins with."""
        names = []
        parts = calls.parts[1:] if leading(calls) else calls.parts
        for number, tool in enumerate(self._offer.chosen):
            function = tool["function"]
            one = Tool(number, function["name"], function.get("parameters") or {"type": "object", "properties": {}})
            body = " ".join(part.lark(one, self._lark) for part in parts)
            names.append(self._lark.rule(f"call_{number}", body))
        return self._lark.rule("call", " | ".join(names))

    def _head(self, calls: Calls) -> str:
        """The text before the first call's own part."""
        first = calls.parts[0].texts()[0] if leading(calls) else ""
        written = vars(calls.parts[0])["text"] if first else ""
        return calls.opens + written

    def _section(self, calls: Calls) -> str:
        """Calls behind their head, and their end."""
        call = self._call(calls)
        again = calls.between + self._head(calls)[len(calls.opens) :]
        more = ""
        if self._offer.parallel and calls.several and again:
            more = f"({self._lark.text(again)} {call})*"
        elif self._offer.parallel and calls.several and calls.between:
            more = f"({self._lark.text(calls.between)} {call})*"
        closes = self._lark.text(calls.closes) if calls.closes else ""
        return self._lark.rule("section", f"{call} {more} {closes}".strip())

    def _required(self, calls: Calls, lead: str) -> str:
        head = self._head(calls).lstrip().removeprefix(lead)
        return f"{self._lark.text(head) if head else ''} {self._section(calls)}".strip()

    def _auto(self, calls: Calls, lead: str, thinking: bool) -> str:
        """Free text until a call begins."""
        lark, head = self._lark, self._head(calls).lstrip()
        section = self._section(calls)
        if not head or lead:
            return self._at_once(calls, head.removeprefix(lead), section)
        found = _HEAD.match(head)
        mark = found[1] if found else head.strip()
        rest = head[len(mark) :]
        body = f"{lark.text(rest)} {section}" if rest else section
        if lark.is_token(mark):
            return self._alternatives(f"TEXT {lark.text(mark)} {body}", "TEXT")
        banned = self._not_a_thought(thinking)
        lark.rule("found[lazy]", f"/{_ANY}/ {quoted(mark)}")
        if not banned:
            return self._alternatives(f"found {body}", "TEXT")
        lark.rule("FOUND", f"/{_ANY}/ {quoted(mark)}")
        lark.rule("first[lazy]", f"FOUND & ~{banned}")
        lark.rule("PLAIN", f"/{_ANY}/ & ~{banned}")
        return self._alternatives(f"found {body}", "TEXT", f"first {body}", "PLAIN")

    def _alternatives(self, call: str, text: str, first: str = "", plain: str = "") -> str:
        """No call, one, or more where the offer allows them, and the text behind them."""
        lark = self._lark
        lark.rule("TEXT", f"/{_ANY}/")
        lark.rule("text", text)
        lark.rule("found_call", call)
        start = lark.rule("first_call", first) if first else "found_call"
        free = lark.rule("plain", plain) if plain else "text"
        tail = "found_call* text" if self._offer.parallel else ""
        return f"({free} | {start} {tail})"

    def _at_once(self, calls: Calls, head: str, section: str) -> str:
        """A call that nothing marks: it begins the message, and a text that begins as calls do is one."""
        lark = self._lark
        begins = re.escape(head or '{"').replace("/", r"\/")
        lark.rule("PLAIN", f"/{_ANY}/ & ~/{begins}{_ANY}/")
        lark.rule("plain", "PLAIN")
        return f"(plain | {lark.text(head) if head else ''} {section})"

    # -- thoughts --

    def _thoughts(self, thinking: bool) -> str:
        """What comes before all else: the rest of a thought, or perhaps one."""
        thoughts = self._form.thoughts
        if thoughts is None or not (thinking or thoughts.opens.strip()):
            return ""
        lark, closes = self._lark, thoughts.closes.strip()
        if lark.is_token(closes):
            rest = f"/{_ANY}/ {lark.text(closes)}"
        else:
            rest = lark.rule("thought_end[lazy]", f"/{_ANY}/ {quoted(closes)}")
        space = r"/\s*/"
        if thinking:
            return lark.rule("thought", f"{rest} {space}")
        return lark.rule("thought", f"{space} {lark.text(thoughts.opens.strip())} {rest} {space}") + "?"

    def _not_a_thought(self, thinking: bool) -> str:
        """A regular expression of texts that begin a thought, where one may come and is no token; "" else."""
        thoughts = self._form.thoughts
        opens = thoughts.opens.strip() if thoughts else ""
        if thinking or not opens or self._lark.is_token(opens):
            return ""
        escaped = re.escape(opens).replace("/", r"\/")
        return rf"/\s*{escaped}{_ANY}/"
