"""A chat: a model, a conversation and its settings, and what messages and /commands do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ggufpy.commands._chat import slash
from ggufpy.commands._chat.answer import Counts, Model, Shown, answer
from ggufpy.commands._chat.conversation import Conversation, Message
from ggufpy.commands._chat.settings import Settings
from ggufpy.errors import GGUFError
from ggufpy.support.clean import encodable, one_line


class Output(Shown, Protocol):
    """Where everything is shown."""

    markdown: bool
    thoughts: str

    def say(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def error(self, text: str) -> None: ...


class Chat:
    """What goes on between a user and a model. Whatever fails (GGUFError) leaves the conversation as it was."""

    def __init__(self, llm: Model, conversation: Conversation, settings: Settings, out: Output) -> None:
        settings.check_tokens(llm.n_vocab())
        self.llm, self.conversation, self.settings, self.out = llm, conversation, settings, out
        self.counts: Counts | None = None  # of the latest answer
        self.draft = ""  # what the user said and was not kept: to be said again, perhaps otherwise
        self.over = False
        self.timings = True  # whether they are shown at all
        self.stopped = False  # the latest answer, by Ctrl-C
        self.turns: list[Counts] = []  # of every answer
        self._counted: tuple[Conversation, int | None] | None = None
        self._attempt = 0  # how often the latest message was answered again

    @property
    def model(self) -> str:
        """The model's name for people."""
        return one_line(Path(self.llm.name).name.removesuffix(".gguf"))

    def take(self, text: str) -> None:
        """A message or a /command. "//" begins a message that begins with "/"."""
        text = encodable(text)
        if text.startswith("/") and not text.startswith("//"):
            slash.run(self, text)
        elif text.strip():
            self.send(text[1:] if text.startswith("//") else text)

    def send(self, text: str) -> None:
        """Answers a message of the user, which is kept for another try where it cannot be answered."""
        self.draft = text if not text.startswith("/") else f"/{text}"
        self._attempt = 0
        if self._answer(self.conversation.asked(text)):
            self.draft = ""

    def again(self) -> None:
        """Answers the user's last message again."""
        base = self.conversation.unanswered()
        if self.settings.is_certain:
            self.out.note("temp is 0, so it may be the same answer; /params temp=0.8 makes others")
        self._attempt += 1
        self._answer(base)

    def count(self, messages: list[Message]) -> int:
        """How many tokens a prompt of these has."""
        return len(self.llm.chat_prompt(messages, **self.settings.variables).tokens)

    def used(self) -> int | None:
        """How many tokens of the context are taken, None where the template cannot have what there is."""
        if self.counts is not None:
            return self.counts.context
        if self._counted is None or self._counted[0] is not self.conversation:
            try:
                count = self.count(self.conversation.whole) if self.conversation.messages else 0
            except GGUFError:
                count = None
            self._counted = self.conversation, count
        return self._counted[1]

    def _answer(self, conversation: Conversation) -> bool:
        """Answers what ends with a message of the user. False where nothing came, and nothing is kept."""
        prompt = self.count(conversation.whole)
        n_ctx = self.llm.n_ctx()
        if prompt >= n_ctx:
            raise GGUFError(self._too_long(conversation, prompt))
        self.out.markdown, self.out.thoughts = self.settings.chat.markdown, self.settings.chat.thoughts
        message, counts = answer(self.llm, conversation.whole, self.settings.request(self._attempt), self.out, prompt)
        self.stopped = counts.finish == "interrupt"
        if message is None and counts.finish == "interrupt":
            self.out.note("stopped before anything came, and the message is not kept")
            return False
        self.conversation = conversation.answered(message or {"role": "assistant", "content": ""})
        self.counts = counts
        self.turns.append(counts)
        self._report(counts, n_ctx)
        return True

    def _report(self, counts: Counts, n_ctx: int) -> None:
        if counts.finish == "interrupt":
            self.out.note("stopped; what came is kept (/regen answers again, /undo takes it back)")
        elif counts.finish == "length" and counts.context >= n_ctx:
            self.out.note(
                f"the context is full ({counts.context:,} of {n_ctx:,} tokens), so the answer ends here: "
                "/drop takes the oldest exchange out, /reset all of them; or start with a larger -c"
            )
        elif counts.finish == "length":
            self.out.note(f"the answer ends at {counts.tokens:,} tokens, as max_tokens says (/params max_tokens=-1)")
        if self.timings and self.settings.chat.timings:
            self.out.note(counts.line(n_ctx))

    def _too_long(self, conversation: Conversation, prompt: int) -> str:
        """Why a prompt cannot be, and what would help."""
        n_ctx = self.llm.n_ctx()
        line = f"with this message the conversation is {prompt:,} tokens, and the context holds {n_ctx:,}: "
        count = self._excess(conversation)
        if count is None:
            return line + "shorten the message, or start with a larger -c; it is not sent"
        some = "the oldest exchange" if count == 1 else f"the oldest {count} exchanges"
        return line + f"/drop {count} takes {some} out, /reset all, /undo the last; or start with a larger -c"

    def _excess(self, conversation: Conversation) -> int | None:
        """How many exchanges must go for the last message to fit with a quarter of the context left for an answer, or
        where that is not to be had, to fit at all. None where it does not fit alone."""
        n_ctx, last = self.llm.n_ctx(), len(conversation.exchanges) - 1
        for room in (n_ctx - n_ctx // 4, n_ctx):
            low, high = 1, last + 1
            while low < high:  # the fewer are left, the fewer tokens
                middle = (low + high) // 2
                if self.count(conversation.without_oldest(middle).whole) < room:
                    high = middle
                else:
                    low = middle + 1
            if low <= last:
                return low
        return None
