"""`Llama`: a loaded model as an application holds it, with the names that llama-cpp-python users know.

In: a model's name and options. Out: tokens, logits, text, and OpenAI-shaped completions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.generate import loading
from ggufpy.generate.draft_functions import LlamaDraftModel
from ggufpy.generate.loading import LoadOptions
from ggufpy.generate.stateful import StatefulModel
from ggufpy.support import checks, console


class Llama(StatefulModel):
    """A loaded model. `model_path` is a path, a known name ("smollm2") or "hf:owner/repo[:file-or-quant]".

    Calls of several threads are evaluated together, as many as `n_parallel` says; others wait their turn. Text that a
    call shares with an earlier one, from the first token on, is not evaluated again. A call that is refused changes
    nothing, and one that fails ends no other. Raises GGUFError for whatever the model or a call cannot do.
    `seed` makes the object's sampled output repeatable; `verbose` reports on stderr.

    `lookup` (tokens at a time, as in 8) and `draft_model` (a smaller model of the same vocabulary: a name, or a
    `Llama` that stays yours to close) make text come faster where it can be guessed, and the text is the same.
    `lora_path` is a file with an adapter, which counts `lora_scale` times. The key-value cache is kept as
    `cache_type_k` and `cache_type_v` say: f16, bf16, q8_0 or q4_0. Any model makes embeddings (`embed`); `embedding`
    is there for programs that say so.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        n_ctx: int = 0,
        n_threads: int | None = None,
        n_batch: int = 512,
        n_gpu_layers: int = 0,
        seed: int | None = None,
        verbose: bool = False,
        *,
        lookup: int = 0,
        draft_model: str | os.PathLike[str] | Llama | LlamaDraftModel | None = None,
        n_parallel: int = 1,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        lora_path: str | os.PathLike[str] | None = None,
        lora_scale: float = 1.0,
        embedding: bool = False,
    ) -> None:
        from ggufpy.support.progress import Progress

        options = LoadOptions(n_ctx, n_threads, n_batch, n_gpu_layers, cache_type_k, cache_type_v, n_parallel)
        lora = () if lora_path is None else ((lora_path, lora_scale),)
        options = replace(options, lookup=lookup, draft_model=draft_model, lora=lora)
        checks.path("model_path", model_path, "the path of a .gguf file, a known name or hf:owner/repo")
        checks.flag("verbose", verbose)
        checks.flag("embedding", embedding)
        if not isinstance(draft_model, Llama | LlamaDraftModel | None):
            checks.path("draft_model", draft_model)
        seed = checks.seed("seed", seed)
        with Progress() as progress:
            if verbose or console.is_terminal("stderr"):
                options = replace(options, progress=progress)
            self._setup(loading.load_parts(model_path, options), seed, options)
        if verbose:
            e = self._parts.engine
            how = f"{e.type_name}, {e.n_threads} threads, {e.isa}, context {e.n_ctx}"
            console.note(f"ggufpy: {self._parts.name}: {how}")

    # -- embeddings --

    def embed(
        self, input: str | Sequence[str], *, normalize: bool = False, pooling: str | None = None
    ) -> list[list[float]]:
        """A vector for each text, or with `pooling` "none" for each token of one text.

        `pooling` is "mean", "cls" (the first token), "last" or "none"; None for what the model says, and where it says
        nothing the last token of a model whose tokens see only what is before them, the mean of another. A model that
        ranks texts ("rank") has scores in place of a vector.
        `normalize` makes vectors 1 long. Raises GGUFError for a text longer than the context.
        """
        return self._embeddings(input, normalize, pooling)[0]

    def create_embedding(
        self, input: str | Sequence[str], model: str | None = None, *, normalize: bool = True,
        pooling: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """As `embed`, in OpenAI's shape, vectors 1 long; `model` is the name in the answer."""
        from ggufpy.api import openai

        name = self.name if model is None else checks.text("model", model)
        return openai.embeddings(name, *self._embeddings(input, normalize, pooling))

    def _embeddings(
        self, given: str | Sequence[str], normalize: bool, pooling: str | None
    ) -> tuple[list[list[float]], int]:
        """The rows of all texts, and how many tokens these have."""
        from ggufpy.generate.embeddings import Embedder

        tensors = self._parts.file.tensors
        embedder = Embedder(self.loop, lambda weight: tensors[weight.name].to_numpy(), self._parts.scales)
        return embedder.of_texts(self.tokenizer, given, pooling, normalize)

    # -- completions, in OpenAI's shapes --

    def __call__(self, prompt: str, max_tokens: int | None = 16, **options: Any) -> Any:
        """`create_completion`."""
        return self.create_completion(prompt, max_tokens, **options)

    def create_completion(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = 16,
        *,
        stream: bool = False,
        **options: Any,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Continue `prompt`: OpenAI's text completion as a dict, with `stream` an iterator of chunks.

        `max_tokens` None or below 1: no limit but the context. Options: `stop` (string or strings), `echo`,
        `logprobs` (how many), `model`, and for sampling those of `ggufpy.Sampling` (`temperature`, `top_p`,
        `seed`, ...). Others raise TypeError.
        """

        from ggufpy.api import openai

        one_by_one = checks.switch("stream", stream)
        asked = openai.text_request(self, prompt, max_tokens, options)
        tokens = self.generate(asked.tokens, asked.sampling, limit=asked.max_tokens)
        return openai.text_chunks(self, asked, tokens) if one_by_one else openai.whole_text(self, asked, tokens)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Answer `messages` ({"role", "content"} each) through the model's chat template, as OpenAI does.

        Contents are texts or text parts, and a message may hold `tool_calls`; they are brought into the form
        that the template takes. Options as `create_completion`, but `logprobs` is a bool and `top_logprobs` a
        count. Raises GGUFError for messages of another form and for a model without a template.
        """

        from ggufpy.api import openai

        one_by_one = checks.switch("stream", stream)
        asked = openai.chat_request(self, messages, max_tokens, options)
        tokens = self.generate(asked.tokens, asked.sampling, limit=asked.max_tokens)
        return openai.chat_chunks(self, asked, tokens) if one_by_one else openai.whole_chat(self, asked, tokens)

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt tokens of a chat: the rendered template, with a beginning token if one is due."""
        template = self.chat_template
        if template is None:
            raise GGUFError(
                "the model has no chat template: use create_completion (on the command line: --raw)"
            )
        tokenizer = self.tokenizer
        text = template.render(messages, add_generation_prompt=True)
        tokens = tokenizer.encode(text, add_special=False, parse_special=True)
        if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
            tokens = [tokenizer.bos, *tokens]
        return tokens
