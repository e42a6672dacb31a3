"""The grammar of a form: free text, thoughts, and calls of the tools that are offered."""

from __future__ import annotations

import re

from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_parser import leading
from ggufpy.chat.syntax.lark import ANYTHING, Control, Lark, Tool, quoted
from ggufpy.chat.syntax.markers import tokens_of
from ggufpy.chat.tools import Offer
from ggufpy.errors import GGUFError

_SPACE = r"[ \t\n]{0,16}"
_HEAD = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Z_]+\])")


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
        if body is None:
            return None
        lark.rule("start", f"{self._thoughts(thinking)} {body}".strip())
        return lark.grammar()

    # -- calls --

    def _call(self, calls: Calls) -> str:
        """A rule for any of the calls, without the text that each begins with."""
        names = []
        parts = calls.parts[1:] if leading(calls) else calls.parts
        for number, tool in enumerate(self._offer.chosen):
            function = tool["function"]
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            held = self._offer.must_call or function.get("strict") is True
            one = Tool(number, function["name"], schema, held)
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
        lark, call = self._lark, self._call(calls)
        again = calls.between + self._head(calls)[len(calls.opens) :]
        more = f"({lark.text(again)} {lark.space()} {call})*" if self._offer.parallel and calls.several else ""
        closes = f"{lark.space()} {lark.text(calls.closes)}" if calls.closes else ""
        return lark.rule("section", f"{call} {more} {closes}")

    def _required(self, calls: Calls, lead: str) -> str:
        """A call, and nothing before it but a thought."""
        lark, section = self._lark, self._section(calls)
        head = self._head(calls).lstrip().removeprefix(lead)
        if not head.strip() or lead:
            return f"{lark.text(head)} {section}"
        mark = _mark(head)
        # White space and mark are one terminal where they compete with the beginning of a thought.
        start = f"{lark.space()} {lark.text(mark)}" if lark.is_token(mark) else rf"/{_SPACE}{escaped(mark)}/"
        return f"{self._wraps()} {start} {lark.text(head[len(mark) :])} {section}"

    def _wraps(self) -> str:
        """The marks of an answer that says nothing."""
        wraps = [self._lark.text(text.strip()) for text in self._form.wraps]
        return f"({self._lark.space()} ({' | '.join(wraps)}))*" if wraps else ""

    def _auto(self, calls: Calls, lead: str, thinking: bool) -> str | None:
        """Free text until a call begins; None where nothing tells where one does."""
        lark, head = self._lark, self._head(calls).lstrip()
        mark = _mark(head)
        if lead or (mark and not self._tells(mark)):
            return None
        section = self._section(calls)
        if not mark:
            return self._at_once(section)
        body = f"{lark.text(head[len(mark) :])} {section}"
        free = self._free()
        if lark.is_token(mark):
            return self._alternatives(f"{free} {lark.text(mark)} {body}", free)
        lark.rule("found[lazy]", f"{ANYTHING} {quoted(mark)}")
        banned = self._not_a_thought(thinking)
        if not banned:
            return self._alternatives(f"found {body}", free)
        lark.rule("FOUND", f"{ANYTHING} {quoted(mark)}")
        lark.rule("first[lazy]", f"FOUND & ~{banned}")
        lark.rule("PLAIN", f"{ANYTHING} & ~{banned}")
        return self._alternatives(f"found {body}", free, f"first {body}", "PLAIN")

    def _free(self) -> str:
        """Free text, with the tokens that mark content."""
        self._lark.rule("TEXT", ANYTHING)
        parts = tokens_of(self._form.wraps)
        marks = [self._lark.text(part) for part in parts if self._lark.is_token(part)]
        return f"(TEXT ({' | '.join(marks)}))* TEXT" if marks else "TEXT"

    def _alternatives(self, call: str, text: str, first: str = "", plain: str = "") -> str:
        """No call, one, or more where the offer allows them, and the text behind them."""
        lark = self._lark
        lark.rule("text", text)
        lark.rule("found_call", call)
        start = lark.rule("first_call", first) if first else "found_call"
        free = lark.rule("plain", plain) if plain else "text"
        tail = "found_call* text" if self._offer.parallel else ""
        return f"({free} | {start} {tail})"

    def _at_once(self, section: str) -> str:
        """A call that nothing marks: it begins the message, and a text that begins as calls do is one."""
        self._lark.rule("PLAIN", rf'{ANYTHING} & ~/\{{[ \t\n]*"name":(?s:.*)/')
        self._lark.rule("plain", "PLAIN")
        return f"(plain | {section})"

    def _tells(self, mark: str) -> bool:
        """Whether a mark stands before calls only, and not also before thoughts or content."""
        thoughts = self._form.thoughts
        others = [*self._form.wraps, *((thoughts.opens, thoughts.closes) if thoughts else ())]
        return not any(text.strip().startswith(mark) for text in others)

    # -- thoughts --

    def _thoughts(self, thinking: bool) -> str:
        """What comes before all else: the rest of a thought, or perhaps one."""
        thoughts = self._form.thoughts
        if thoughts is None or not (thinking or thoughts.opens.strip()):
            return ""
        lark, opens, closes = self._lark, thoughts.opens.strip(), thoughts.closes.strip()
        if self._has_token(closes):
            rest = f"{ANYTHING} {lark.text(closes)}"
        else:
            rest = lark.rule("thought_end[lazy]", f"{ANYTHING} {quoted(closes)}")
        if thinking:
            return lark.rule("thought", f"{rest} {lark.space()}")
        start = rf"/{_SPACE}{escaped(opens)}/"  # one terminal: it competes with free text
        if self._has_token(opens):
            start = f"{lark.space()} {lark.text(opens)}"
        return lark.rule("thought", f"{start} {rest} {lark.space()}") + "?"

    def _has_token(self, text: str) -> bool:
        """Whether a text begins with a control token, which free text cannot."""
        return self._lark.is_token(tokens_of([text])[0])

    def _not_a_thought(self, thinking: bool) -> str:
        """A regular expression of texts that begin a thought, where one may come and is no token; "" else."""
        thoughts = self._form.thoughts
        opens = thoughts.opens.strip() if thoughts else ""
        if thinking or not opens or self._has_token(opens):
            return ""
        return rf"/{_SPACE}{escaped(opens)}(?s:.*)/"


def _mark(head: str) -> str:
    """The first marker of a text."""
    found = _HEAD.match(head)
    return found[1] if found else head.strip()


def escaped(text: str) -> str:
    """A text within a regular expression of Lark's."""
    return re.escape(text).replace("/", r"\/")
