"""The chat template of a model: messages in, the prompt text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ggufpy.chat import continuing
from ggufpy.chat.limits import MAX_SOURCE, SECONDS, Allowance, TemplateFailure
from ggufpy.chat.messages import adapted, checked, checked_tools, with_reasoning
from ggufpy.chat.probe import Message, Probe
from ggufpy.chat.renderer import Renderer
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer
    from ggufpy.tokenizers.vocab import Described

_KEY = "tokenizer.chat_template"
_TOOL_USE = "tool_use"
_LEAST_SECONDS = 0.3  # to render, however long it took to compile

# Special tokens that Hugging Face gives to templates, and the keys of their ids in a file
# (transformers: SPECIAL_TOKENS_ATTRIBUTES; gguf-py: Keys.Tokenizer)
_TOKEN_KEYS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
_ALLOWANCE: ContextVar[Allowance] = ContextVar("allowance")  # of the call of `render` that runs


class ChatTemplate:
    """A compiled template with the texts of the model's special tokens. Safe to share between threads.

    Templates run in a sandbox, in a process of their own (`Renderer`): no access to Python, at most MAX_SOURCE
    characters of source, and time, memory and text as `ggufpy.chat.limits` has them.
    """

    def __init__(
        self,
        source: str,
        bos_token: str = "",
        eos_token: str = "",
        name: str = _KEY,
        renderer: Renderer | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        """Compiles `source`; `name` is what errors call it.

        `tokens` are further special tokens by Hugging Face's names ("pad_token"); an empty text is none. `renderer`
        is a process that has been started already; `close` ends it. Raises GGUFError if the source is too long or no
        template.
        """
        if len(source) > MAX_SOURCE:
            raise GGUFError(f"{name}: {len(source):,} characters are too many for a template; at most {MAX_SOURCE:,}")
        self.source = source
        self.name = name
        self.with_tools: ChatTemplate | None = None  # what a file has for chats in which tools are on offer
        given = {"bos_token": bos_token, "eos_token": eos_token, **(tokens or {})}
        self._tokens = {key: text for key, text in given.items() if text}
        self._blank = [key for key in _TOKEN_KEYS if key in given and not given[key]]
        self._renderer = renderer or Renderer()
        self._probe = Probe(source, self._try)
        allowance = Allowance(SECONDS)
        try:
            self._renderer.render(source, None, (), allowance)
        except TemplateFailure as error:
            if renderer is None:
                self._renderer.close()
            raise GGUFError(f"{name} is not a valid jinja2 template: {error}") from error
        self._seconds = max(allowance.left, _LEAST_SECONDS)

    @classmethod
    def from_metadata(
        cls, file: Described, tokenizer: Tokenizer, name: str | None = None, renderer: Renderer | None = None
    ) -> ChatTemplate | None:
        """The template of `file` (`template_key`), or the one called `name`; None if there is none.

        The one of a file that has another called "tool_use" takes that where tools are on offer, as Hugging Face
        does (`get_chat_template`). Raises GGUFError if it is not a text or no template.
        """
        key = template_key(file.metadata) if name is None else f"{_KEY}.{name}"
        if key is None or key not in file.metadata:
            return None
        renderer = renderer or Renderer()
        try:
            made = cls._of_key(key, file, tokenizer, renderer)
            other = f"{_KEY}.{_TOOL_USE}"
            if name is None and key != other and file.metadata.get(other, "") != "":
                made.with_tools = cls._of_key(other, file, tokenizer, renderer)
        except BaseException:
            renderer.close()
            raise
        return made

    @classmethod
    def _of_key(cls, key: str, file: Described, tokenizer: Tokenizer, renderer: Renderer) -> ChatTemplate:
        source = file.metadata[key]
        if not isinstance(source, str):
            raise GGUFError(f"{key} must be a text, not {type(source).__name__}")
        tokens = {name: _token_text(file, tokenizer, token) for name, token in _TOKEN_KEYS.items()}
        return cls(source, tokens["bos_token"], tokens["eos_token"], key, renderer, tokens)

    @property
    def isolated(self) -> bool:
        """Whether it runs in a process of its own, and not in this one, where only its sandbox holds it."""
        return self._renderer.isolated

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final: bool = False,
        **extra: Any,
    ) -> str:
        """The prompt for `messages`, each a mapping with a text `role` and `content` (a text, text parts, or
        None) and perhaps `tool_calls`, brought into the form that the template takes.

        `tools` are on offer, in OpenAI's shape. With `continue_final` the prompt ends within the last message, which
        the model is to go on with, and nothing that would begin another is added. `extra` (`enable_thinking`,
        `documents`, `reasoning_effort`) are further variables of the template, JSON values. Raises GGUFError for
        messages of another form, for what the template refuses (`raise_exception`), and for a template that fails or
        does too much.
        """
        tools = checked_tools(tools)
        if tools is not None and self.with_tools is not None:
            return self.with_tools.render(messages, add_generation_prompt, tools, continue_final, **extra)
        chat = checked(messages)
        with self._failures(), self._allowance():
            return self._prompt(adapted(chat, self._probe), add_generation_prompt, tools, continue_final, extra)

    def render_as_given(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final: bool = False,
        **extra: Any,
    ) -> str:
        """As `render`, but messages are neither checked nor adapted: what Hugging Face's `apply_chat_template` makes
        of them, and what this template writes for one form of a message or another."""
        with self._failures(), self._allowance():
            return self._prompt([*messages], add_generation_prompt, tools, continue_final, extra)

    def close(self) -> None:
        """End the process in which templates run; closing twice is fine."""
        self._renderer.close()

    def _prompt(
        self, chat: list[Any], add_generation_prompt: bool, tools: Any, continue_final: bool, extra: Mapping[str, Any]
    ) -> str:
        chat = with_reasoning(chat)
        if continue_final:
            chat = continuing.marked(chat)
        variables = {"documents": None, **extra, "messages": chat, "tools": tools}
        text = self._written({**variables, "add_generation_prompt": add_generation_prompt and not continue_final})
        return continuing.cut(text, chat[-1]) if continue_final else text

    def _written(self, variables: Mapping[str, Any]) -> str:
        """What the template writes. Raises TemplateFailure."""
        variables = {**self._tokens, **variables}
        blank = [key for key in self._blank if key not in variables]
        return self._renderer.render(self.source, variables, blank, _ALLOWANCE.get())

    def _try(self, messages: list[Message], tools: Any) -> str:
        return self._written({"documents": None, "messages": messages, "tools": tools, "add_generation_prompt": False})

    @contextmanager
    def _allowance(self) -> Iterator[None]:
        """Within it all renderings together have the seconds that compiling has left."""
        token = _ALLOWANCE.set(Allowance(self._seconds))
        try:
            yield
        finally:
            _ALLOWANCE.reset(token)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Within it a failure of the template is an error that names it."""
        try:
            yield
        except TemplateFailure as error:
            raise GGUFError(f"{self.name} cannot render these messages: {error}") from error


def template_key(metadata: Mapping[str, Any]) -> str | None:
    """The key of a file's template: an empty one counts as absent, and then the one for tools is taken.

    Source: llama.cpp, common/chat.cpp.
    """
    return next((key for key in (_KEY, f"{_KEY}.{_TOOL_USE}") if metadata.get(key, "") != ""), None)


def _token_text(file: Described, tokenizer: Tokenizer, name: str) -> str:
    """The text of a special token, empty for one that the file does not have."""
    known = {"bos": tokenizer.bos, "eos": tokenizer.eos}
    token = known[name] if name in known else file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    if not isinstance(token, int) or not 0 <= token < tokenizer.n_vocab:
        return ""
    return tokenizer.decode([token], special=True)
