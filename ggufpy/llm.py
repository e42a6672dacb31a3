"""`Llama`: a loaded model as an application holds it, with the names that llama-cpp-python users know.

What it does is in the classes that it is made of: tokens and logits (`generate/loaded.py`), completions, embeddings and
their twins for asyncio (`api/`). Here is how it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ggufpy.api import arguments
from ggufpy.api.asynchronous import AsyncCompletions
from ggufpy.errors import GGUFError
from ggufpy.generate import loading
from ggufpy.generate.draft_functions import LlamaDraftModel
from ggufpy.generate.loading import LoadOptions
from ggufpy.support import checks, console

Path = str | os.PathLike[str]


class Llama(AsyncCompletions):
    """A loaded model. `model_path` is a path, a known name ("smollm2") or "hf:owner/repo[:file-or-quant]".

    Calls of several threads are evaluated together, as many as `n_parallel` says; others wait their turn. Text that a
    call shares with an earlier one, from the first token on, is not evaluated again. A call that is refused changes
    nothing, and one that fails ends no other. Raises GGUFError for whatever the model or a call cannot do.
    `seed` makes the object's sampled output repeatable; `verbose` reports on stderr.

    `lookup` (tokens at a time, as in 8) and `draft_model` (a smaller model of the same vocabulary: a name, or a
    `Llama` that stays yours to close) make text come faster where it can be guessed, and the text is the same.
    `n_gpu_layers` of the last layers and the output run on the NVIDIA card `main_gpu`, or on several by the shares in
    `tensor_split`: a number, "all" (-1) or "auto" for as many as fit; of the first `n_cpu_moe` layers the experts stay
    on the CPU, which are most of a large mixture (any large number: of all). `lora_path` is a file with an adapter, or
    several, which count `lora_scale` times. The key-value cache is kept as `cache_type_k` and `cache_type_v` say
    (`type_k`, `type_v`): f16, bf16, q8_0 or q4_0. Any model makes embeddings (`embed`), pooled as `pooling_type` says;
    `embedding` is there for programs that say so.

    `chat_format` names a format that writes chats in place of the model's template ("chatml"), `chat_handler` is
    called in its place as llama-cpp-python does. `vocab_only` loads no weights. `kv_overrides` and what arguments say
    about rotary positions (`rope_freq_base`, ...) replace the file's metadata. Other arguments of `llama_cpp.Llama` are
    taken: `ggufpy/api/arguments.py` says what becomes of each, and what has no effect warns by its name. Names that
    neither has raise TypeError.
    """

    def __init__(
        self,
        model_path: Path,
        n_ctx: int = 0,
        n_threads: int | None = None,
        n_batch: int = 512,
        n_gpu_layers: int | str = 0,
        seed: int | None = None,
        verbose: bool = False,
        *,
        lookup: int = 0,
        draft_model: Path | Llama | LlamaDraftModel | None = None,
        n_parallel: int = 1,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        lora_path: Path | Sequence[Path] | None = None,
        lora_scale: float | Sequence[float] = 1.0,
        embedding: bool = False,
        pooling_type: int | str | None = None,
        chat_format: str | None = None,
        chat_handler: Callable[..., Any] | None = None,
        vocab_only: bool = False,
        kv_overrides: Mapping[str, bool | int | float | str] | None = None,
        last_n_tokens_size: int = 64,
        spm_infill: bool = False,
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = (),
        n_cpu_moe: int = 0,
        **others: Any,
    ) -> None:
        from ggufpy.support.progress import Progress

        arguments.check_names(others, frozenset(self.__init__.__annotations__))  # type: ignore[misc]
        layers = arguments.gpu_layers(n_gpu_layers)
        experts_here = checks.whole("n_cpu_moe", n_cpu_moe, 0)
        if n_gpu_layers and not layers:
            experts_here = 0  # there is no card, so all are on the CPU
        arguments.warn(others)
        types = [arguments.named("type_k", type_k, arguments.CACHE_TYPES) or cache_type_k,
                 arguments.named("type_v", type_v, arguments.CACHE_TYPES) or cache_type_v]  # fmt: skip
        options = LoadOptions(n_ctx, n_threads, n_batch, layers, types[0], types[1], n_parallel)
        options = replace(
            options,
            lookup=lookup,
            draft_model=draft_model,
            lora=arguments.adapters(lora_path, lora_scale),
            changes=arguments.metadata_changes(others, kv_overrides),
            vocab_only=checks.flag("vocab_only", vocab_only),
            main_gpu=main_gpu,
            n_cpu_moe=experts_here,
            tensor_split=tuple(() if tensor_split is None else checks.items("tensor_split", tensor_split, "a list")),
        )
        checks.path("model_path", model_path, "the path of a .gguf file, a known name or hf:owner/repo")
        checks.flag("verbose", verbose)
        checks.flag("embedding", embedding)
        if not isinstance(draft_model, Llama | LlamaDraftModel | None):
            checks.path("draft_model", draft_model)
        seed = checks.seed("seed", seed)
        self._pooling = arguments.named("pooling_type", pooling_type, arguments.POOLINGS)
        self._spm_infill = checks.flag("spm_infill", spm_infill)
        self.last_n_tokens_size = checks.whole("last_n_tokens_size", last_n_tokens_size, 0)
        self._logits_all = checks.flag("logits_all", others.get("logits_all", False))
        self.chat_handler = arguments.handler(chat_handler) or _registered(chat_format)
        self._chat_format = None if self.chat_handler is not None else _format(chat_format)
        with Progress() as progress:
            if verbose or console.is_terminal("stderr"):
                options = replace(options, progress=progress)
            if verbose:
                options = replace(options, note=console.note)
            self._setup(loading.load_parts(model_path, options), seed, options)
        if verbose:
            self._report(vocab_only)

    def _report(self, vocab_only: bool) -> None:
        e = self._parts.engine
        if vocab_only:
            made = f"{e.n_vocab:,} tokens, no weights"
        else:
            made = f"{e.type_name}, {e.n_threads} threads, {e.isa}, context {e.n_ctx}"
        console.note(f"ggufpy: {self._parts.name}: {made}")

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        additional_files: Sequence[str] | None = None,
        local_dir: Path | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: Path | None = None,
        **options: Any,
    ) -> Llama:
        """A model of a Hugging Face repository: `filename` is a file's name or a pattern that one file matches.

        `options` are those of `Llama`. Needs the extra `hub`. Raises GGUFError where it cannot be fetched.
        """
        from ggufpy.hub.pretrained import pretrained

        checks.text("repo_id", repo_id), checks.text("filename", filename)
        more = [] if additional_files is None else checks.items("additional_files", additional_files, "a list of names")
        return cls(pretrained(repo_id, filename, more, local_dir, cache_dir), **options)

    @property
    def model_path(self) -> str:
        """The path of the model's file."""
        return self.name

    def create_chat_completion_openai_v1(self, *args: Any, **options: Any) -> Any:
        """`create_chat_completion` as the objects of the `openai` package, which must be installed."""
        try:
            from openai.types.chat import ChatCompletion, ChatCompletionChunk
        except ImportError as error:
            raise GGUFError("create_chat_completion_openai_v1 needs the openai package: pip install openai") from error
        made: Any = self.create_chat_completion(*args, **options)
        return (ChatCompletionChunk(**one) for one in made) if options.get("stream") else ChatCompletion(**made)


def _registered(name: object) -> Callable[..., Any] | None:
    """The handler that the program has registered under the name of a chat format."""
    if name is None:
        return None
    from ggufpy.chat import formats

    return formats.handlers.get(checks.text("chat_format", name))


def _format(name: object) -> Any:
    """A chat format by its name; None is the model's own template."""
    if name is None:
        return None
    from ggufpy.chat import formats

    return formats.get(checks.text("chat_format", name))
