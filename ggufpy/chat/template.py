"""The chat template of a model: messages in, the prompt text out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError

if TYPE_CHECKING:
    from ggufpy.format.reader import GGUFFile
    from ggufpy.tokenizers import Tokenizer

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
        try:
            self._template = Sandbox().compile_metered(source)
        except Exception as error:  # whatever jinja2 makes of a hostile source: syntax, recursion, encoding
            raise GGUFError(f"{name} is not a valid jinja2 template: {_line(error)}") from error

    @classmethod
    def from_metadata(
        cls, file: GGUFFile, tokenizer: Tokenizer, name: str | None = None
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
        """The prompt for `messages`, each a mapping with a text `role` and `content` (a text, parts, or
        None).

        `extra` (such as `tools`) are further variables of the template. Raises GGUFError for messages of
        another form, for what the template refuses (`raise_exception`), and for a template that fails or
        does too much.
        """
        variables = {"tools": None, "documents": None, **self._tokens, **extra}
        variables["messages"] = _checked(messages)
        variables["add_generation_prompt"] = add_generation_prompt
        from ggufpy.chat.sandbox import metered

        try:
            return metered(lambda: self._template.generate(variables), MAX_OUTPUT)
        except Exception as error:  # a template can raise anything that Python's operators raise
            raise GGUFError(f"{self.name} cannot render these messages: {_line(error)}") from error


def template_key(metadata: Mapping[str, Any]) -> str | None:
    """The key of a file's template: an empty one counts as absent, and then the one for tools is taken.

    Source: llama.cpp, common/chat.cpp.
    """
    return next((key for key in (_KEY, f"{_KEY}.tool_use") if metadata.get(key, "") != ""), None)


def _token_text(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.decode([token], special=True)


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise GGUFError(f"messages must be a list of {{role, content}}, not {type(messages).__name__}")
    if not messages:
        raise GGUFError("messages is empty: give at least one {role, content}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise GGUFError(f"messages[{i}] must be a mapping with a text under 'role'")
        content = message.get("content")
        if "content" not in message and "tool_calls" not in message:
            raise GGUFError(f"messages[{i}] has no 'content'")
        if content is not None and not isinstance(content, (str, list, tuple)):
            raise GGUFError(
                f"messages[{i}]: 'content' must be a text or a list of parts, not {type(content).__name__}"
            )
    return [dict(message) for message in messages]


def _line(error: BaseException) -> str:
    """An exception as one line."""
    line = _SPACE.sub(" ", str(error)).strip()[:300] or type(error).__name__
    number = getattr(error, "lineno", None)
    return f"{line} (line {number})" if isinstance(number, int) else line
