"""A model in LangChain: chains, streams, tools and asyncio over one `ggufpy.Llama` (pip install langchain-core).

Usage: python examples/langchain_model.py [MODEL]
"""

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, convert_to_messages, convert_to_openai_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.utils.function_calling import convert_to_openai_tool

import ggufpy


class ChatGGUF(BaseChatModel):
    """`llm` is a `ggufpy.Llama`, `options` are those of its `create_chat_completion` (temperature, max_tokens, ...)."""

    llm: Any
    options: dict[str, Any]

    @property
    def _llm_type(self) -> str:
        return "ggufpy"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **options: Any) -> Any:
        """`tools` are functions, pydantic classes or LangChain's own."""
        choice = "required" if tool_choice == "any" else tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=choice, **options)

    def _asked(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
        return {"messages": convert_to_openai_messages(messages), "stop": stop, **self.options, **options}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        return result(self.llm.create_chat_completion(**self._asked(messages, stop, options)))

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> Iterator[Any]:
        for chunk in self.llm.create_chat_completion(**self._asked(messages, stop, options), stream=True):
            yield part(chunk["choices"][0]["delta"])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        return result(await self.llm.acreate_chat_completion(**self._asked(messages, stop, options)))

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any
    ) -> AsyncIterator[Any]:
        async for chunk in await self.llm.acreate_chat_completion(**self._asked(messages, stop, options), stream=True):
            yield part(chunk["choices"][0]["delta"])


def result(answer: dict[str, Any]) -> ChatResult:
    """A whole answer: text, calls of tools, and what it took."""
    choice, usage = answer["choices"][0], answer["usage"]
    (message,) = convert_to_messages([choice["message"]])
    message.response_metadata = {"finish_reason": choice["finish_reason"], "model_name": answer["model"]}
    message.usage_metadata = {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    return ChatResult(generations=[ChatGeneration(message=message)])


def part(delta: dict[str, Any]) -> ChatGenerationChunk:
    """A piece of an answer."""
    calls = [
        {"index": call["index"], "id": call.get("id"), "name": call["function"].get("name"),
         "args": call["function"].get("arguments")} for call in delta.get("tool_calls", [])
    ]  # fmt: skip
    return ChatGenerationChunk(message=AIMessageChunk(content=delta.get("content") or "", tool_call_chunks=calls))


def main(model: str) -> None:
    with ggufpy.Llama(model, n_ctx=1024, n_parallel=2) as llm:
        chat = ChatGGUF(llm=llm, options={"max_tokens": 40, "temperature": 0.0})
        prompt = ChatPromptTemplate.from_messages([("system", "Answer in a few words."), ("human", "Name a {thing}.")])
        chain = prompt | chat | StrOutputParser()
        print(chain.batch([{"thing": "river"}, {"thing": "bird"}]))  # side by side, as n_parallel says
        for text in chain.stream({"thing": "city"}):
            print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
