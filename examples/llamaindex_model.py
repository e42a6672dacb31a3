"""A model and its embeddings in LlamaIndex, and an index that is asked (pip install llama-index-core).

Usage: python examples/llamaindex_model.py [MODEL]
"""

import sys
from typing import Any

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

import ggufpy

TEXTS = [
    "The Danube rises in the Black Forest and ends in the Black Sea.",
    "The library opens at nine and closes at six, on Sundays it is closed.",
    "A kiwi is a bird that cannot fly.",
]


class GGUF(CustomLLM):
    """`llm` is a `ggufpy.Llama`, `options` are those of its completions (temperature, max_tokens, ...)."""

    llm: Any
    options: dict[str, Any]

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.llm.n_ctx(),
            num_output=self.options.get("max_tokens", 256),
            is_chat_model=True,
            model_name=self.llm.name,
        )

    @llm_chat_callback()
    def chat(self, messages: Any, **options: Any) -> ChatResponse:
        answer = self.llm.create_chat_completion(dicts(messages), **{**self.options, **options})
        return response(answer["choices"][0]["message"]["content"] or "", "", answer)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **options: Any) -> Any:
        def parts() -> Any:
            text = ""
            for chunk in self.llm.create_chat_completion(dicts(messages), stream=True, **{**self.options, **options}):
                new = chunk["choices"][0]["delta"].get("content") or ""
                text += new
                yield response(text, new, chunk)

        return parts()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **options: Any) -> CompletionResponse:
        answer = self.llm.create_completion(prompt, **{**self.options, **options})
        return CompletionResponse(text=answer["choices"][0]["text"], raw=answer)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **options: Any) -> Any:
        def parts() -> Any:
            text = ""
            for chunk in self.llm.create_completion(prompt, stream=True, **{**self.options, **options}):
                new = chunk["choices"][0]["text"]
                text += new
                yield CompletionResponse(text=text, delta=new, raw=chunk)

        return parts()


class GGUFEmbedding(BaseEmbedding):
    """Vectors of `llm`, 1 long. A model that was not trained for them is asked what a text means (see search.py)."""

    llm: Any
    form: str = "{}"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self.llm.embed([self.form.format(text) for text in texts], normalize=True, truncate=True)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self.llm.aembed([self.form.format(query)], normalize=True, truncate=True))[0]


def dicts(messages: Any) -> list[dict[str, str]]:
    """Messages as OpenAI has them."""
    return [{"role": message.role.value, "content": message.content or ""} for message in messages]


def response(text: str, new: str, raw: Any) -> ChatResponse:
    """What has been said so far, and the newest of it."""
    return ChatResponse(message=ChatMessage(role="assistant", content=text), delta=new, raw=raw)


def main(model: str) -> None:
    with ggufpy.Llama(model, n_ctx=2048) as llm:
        writer = GGUF(llm=llm, options={"max_tokens": 60, "temperature": 0.0})
        documents = [Document(text=text) for text in TEXTS]
        vectors = GGUFEmbedding(llm=llm, form='The text "{}" in one word means:' if model == "smollm2" else "{}")
        index = VectorStoreIndex.from_documents(documents, embed_model=vectors)
        print(index.as_query_engine(llm=writer, similarity_top_k=1).query("Which bird cannot fly?"))
        for part in writer.stream_chat([ChatMessage(role="user", content="Name a river.")]):
            print(part.delta, end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
