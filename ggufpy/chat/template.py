"""The chat template of a model: messages in, the prompt text out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.messages import adapted, checked
from ggufpy.chat.probe import Message, Probe
from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.tokenizers import Tokenizer
    from ggufpy.tokenizers.vocab import Described

MAX_SOURCE = 1 << 17  # characters of a template
MAX_OUTPUT = 1 << 26  # characters of a prompt
_KEY = "tokenizer.chat_template"
_SPACE = re.compile(r"\s+")


class ChatTemplate:
    """A compiled template with the model's BOS and EOS texts. Safe to share between threads.

    Templates run in a sandbox: no access to Python, at most MAX_SOURCE characters of source, MAX_OUTPUT of
    text, and the work, value size and seconds that `ggufpy.chat.sandbox` allows. jinja2 is imported when one
    is made.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "", name: str = _KEY) -> None:
        """Compiles `source`; `name` is what errors call it. Raises GGUFError if it is too long or no
        template."""
        if len(source) > MAX_SOURCE:
            raise GGUFError(
                f"{name}: {len(source):,} characters are too many for a template; at most {MAX_SOURCE:,}"
            )
        from ggufpy.chat.sandbox import Sandbox

        self.source = source
        self.name = name
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._probe = Probe(source, self._try)
        try:
            self._template = Sandbox().compile_metered(source)
        except Exception as error:  # whatever jinja2 makes of a hostile source: syntax, recursion, encoding
            raise GGUFError(f"{name} is not a valid jinja2 template: {_line(error)}") from error

    @classmethod
    def from_metadata(
        cls, file: Described, tokenizer: Tokenizer, name: str | None = None
    ) -> ChatTemplate | None:
        """The template of `file` (`template_key`), or the one called `name`; None if there is none.

        Raises GGUFError if it is not a text or no template.
        """
        key = template_key(file.metadata) if name is None else f"{_KEY}.{name}"
        if key is None or key not in file.metadata:
            return None
        source = file.metadata[key]
        if not isinstance(source, str):
            raise GGUFError(f"{key} must be a text, not {type(source).__name__}")
        bos, eos = (_token_text(tokenizer, token) for token in (tokenizer.bos, tokenizer.eos))
        return cls(source, bos, eos, key)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        """The prompt for `messages`, each a mapping with a text `role` and `content` (a text, text parts, or
        None) and perhaps `tool_calls`, brought into the form that the template takes.

        `extra` (such as `tools`) are further variables of the template. Raises GGUFError for messages of
        another form, for what the template refuses (`raise_exception`), and for a template that fails or
        does too much.
        """
        chat = adapted(checked(messages), self._probe)
        try:
            return self._written({**extra, "messages": chat, "add_generation_prompt": add_generation_prompt})
        except Exception as error:  # a template can raise anything that Python's operators raise
            raise GGUFError(f"{self.name} cannot render these messages: {_line(error)}") from error

    def _written(self, variables: Mapping[str, Any]) -> str:
        """What the template writes, within the limits of the sandbox. Raises whatever it raises."""
        from ggufpy.chat.sandbox import metered

        variables = {"tools": None, "documents": None, **self._tokens, **variables}
        return metered(lambda: self._template.generate(variables), MAX_OUTPUT)

    def _try(self, messages: list[Message], tools: Any) -> str:
        return self._written({"messages": messages, "tools": tools, "add_generation_prompt": False})


def template_key(metadata: Mapping[str, Any]) -> str | None:
    """The key of a file's template: an empty one counts as absent, and then the one for tools is taken.

    Source: llama.cpp, common/chat.cpp.
    """
    return next((key for key in (_KEY, f"{_KEY}.tool_use") if metadata.get(key, "") != ""), None)


def _token_text(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.decode([token], special=True)


def _line(error: BaseException) -> str:
    """An exception as one line."""
    line = _SPACE.sub(" ", str(error)).strip()[:300] or type(error).__name__
    number = getattr(error, "lineno", None)
    return f"{line} (line {number})" if isinstance(number, int) else line
