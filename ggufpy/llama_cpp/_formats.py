"""The formats that come with ggufpy as formatters, under the names of llama-cpp-python's functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ggufpy.api.completing import CHAT_TEMPERATURE
from ggufpy.chat import formats
from ggufpy.llama_cpp._responses import ChatFormatterResponse, LlamaChatCompletionHandler
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.api.openai.prompts import ChatPrompt
    from ggufpy.chat.tools import Offer
    from ggufpy.llm import Llama


class _Formatter(Protocol):
    """As ChatFormatter; messages may also come by their place."""

    def __call__(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> ChatFormatterResponse: ...


def formatter(name: str) -> _Formatter:
    """The format of a name as a formatter. Its module is imported by the first call."""

    def write(messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> ChatFormatterResponse:
        form = formats.get(name)
        tools = kwargs.get("tools") or [{"function": each} for each in kwargs.get("functions") or ()]
        prompt = form.render(messages, tools if form.takes_tools else None)
        stop = form.stops[0] if len(form.stops) == 1 else list(form.stops) or None
        return ChatFormatterResponse(prompt, stop, added_special=form.added_special)

    return write


def handler(name: str) -> LlamaChatCompletionHandler:
    """What answers chats in the format of a name, whatever the format of the model is: as `create_chat_completion`."""

    def answer(
        *, llama: Llama, messages: Sequence[Any], stream: bool = False, **kwargs: Any
    ) -> Any:  # fmt: skip
        from ggufpy.api import shape
        from ggufpy.api.openai import asked, texts
        from ggufpy.api.openai.chat import ChatShape

        one_by_one = checks.switch("stream", stream)
        view: Any = _View(llama, formats.get(name))
        options = {"temperature": CHAT_TEMPERATURE, **kwargs}
        job = texts.Job(view, asked.chat_request(view, messages, options.pop("max_tokens", None), options))
        form = ChatShape(view, job.asked)
        return shape.chunks(job, form) if one_by_one else shape.whole(job, form)

    return answer


class _View:
    """A model whose chats are in `form`; all else is the model's."""

    def __init__(self, llama: Llama, form: formats.Format) -> None:
        from ggufpy.api.openai import prompts

        self._llama = llama
        self._form = form
        self.chat_answers = prompts.answers_of(llama.tokenizer, form.syntax)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llama, name)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], offer: Offer | None = None) -> ChatPrompt:
        """See `ggufpy.api.openai.model.Model`."""
        from ggufpy.api.openai import prompts

        llama, tools = self._llama, None if offer is None or not offer.chosen else offer.tools
        return prompts.chat_prompt(llama.tokenizer, self._form.render(messages, tools), self._form.stops, llama.turns)


format = formatter("vicuna")
format_alpaca = formatter("alpaca")
format_baichuan = formatter("baichuan")
format_baichuan2 = formatter("baichuan-2")
format_chatglm3 = formatter("chatglm3")
format_chatml = formatter("chatml")
format_gemma = formatter("gemma")
format_intel = formatter("intel")
format_llama2 = formatter("llama-2")
format_llama3 = formatter("llama-3")
format_mistral_instruct = formatter("mistral-instruct")
format_mistrallite = formatter("mistrallite")
format_oasst_llama = formatter("oasst_llama")
format_open_orca = formatter("open-orca")
format_openbuddy = formatter("openbuddy")
format_openchat = formatter("openchat")
format_phind = formatter("phind")
format_pygmalion = formatter("pygmalion")
format_qwen = formatter("qwen")
format_redpajama_incite = formatter("redpajama-incite")
format_saiga = formatter("saiga")
format_snoozy = formatter("snoozy")
format_zephyr = formatter("zephyr")

chatml_function_calling = handler("chatml-function-calling")
functionary_chat_handler = handler("functionary")


def functionary_v1_v2_chat_handler(*, llama: Llama, messages: Sequence[Any], **kwargs: Any) -> Any:
    """What answers chats of a Functionary model: in the format whose tokens its vocabulary has."""
    first = "<|START_OF_FUNCTION_CALL|>" in llama.tokenizer.vocab.ids
    return handler("functionary-v1" if first else "functionary-v2")(llama=llama, messages=messages, **kwargs)
