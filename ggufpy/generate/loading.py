"""From a model's name and options to its parts: the engine with its packed weights, the tokeniser, the chat template.

Tokeniser and template are made by threads while weights are packed, so that a start takes no longer than the longest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ggufpy.backends.cpu.kernels.kv_types import of_name
from ggufpy.errors import GGUFError
from ggufpy.hub import ProgressCall, resolve
from ggufpy.support import checks

if TYPE_CHECKING:
    from ggufpy.chat import ChatTemplate
    from ggufpy.format import GGUFFile
    from ggufpy.generate.drafters import Model
    from ggufpy.runtime import Engine
    from ggufpy.tokenizers import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model. `n_ctx` 0 is the model's own; `n_threads` None is one a core.

    `shorten`: an `n_ctx` above the model's own is not refused, but becomes that. `n_parallel` is how many texts
    there can be at once. `pre` names another pre-tokeniser; `text` False leaves the tokeniser alone until it is asked
    for; `progress(stage, done, total)` hears of long work. `lookup` is how many tokens to draft from the text
    itself, `draft_model` a smaller model (a name, or one that is loaded) that drafts up to `draft_max`.
    """

    n_ctx: int = 0
    n_threads: int | None = None
    n_batch: int = 512
    n_gpu_layers: int = 0
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    n_parallel: int = 1
    shorten: bool = False
    lookup: int = 0
    draft_model: str | os.PathLike[str] | Model | None = None
    draft_max: int = 16
    pre: str | None = None
    text: bool = True
    progress: ProgressCall | None = None

    def check(self) -> None:
        """Raise GGUFError for what no model can do."""
        if checks.whole("n_gpu_layers", self.n_gpu_layers, -1):
            raise GGUFError("layers cannot be moved to a GPU yet; leave n_gpu_layers (-ngl) at 0")
        for name in ("cache_type_k", "cache_type_v"):
            of_name(checks.text(name, getattr(self, name)))
        least = {"n_ctx": 0, "n_batch": 1, "n_parallel": 1, "lookup": 0, "draft_max": 1}
        for name, bound in least.items():
            checks.whole(name, getattr(self, name), bound)
        if self.lookup and self.draft_model is not None:
            raise GGUFError("drafts come from the text (lookup) or from a smaller model (draft_model), not from both")
        if self.n_threads is not None:
            checks.whole("n_threads", self.n_threads, 1)


class Later(Generic[T]):
    """A value that a thread makes in the background once it is started, and otherwise the first `get` in place."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to make the value."""
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:  # kept for whoever asks for the value
            self._error = error

    def wait(self) -> None:
        """Return once the thread, if there is one, is done."""
        if self._thread is not None:
            self._thread.join()

    def get(self) -> T:
        """The value; raises what making it raised."""
        self.wait()
        if self._thread is None and not self._made and self._error is None:
            self._run()
        if self._error is not None:
            raise self._error
        return self._made[0]


@dataclass(frozen=True)
class Parts:
    """What a `Llama` is made of."""

    name: str
    engine: Engine
    file: GGUFFile
    tokenizer: Later[Tokenizer]
    template: Later[ChatTemplate | None]


def load_parts(model: str | os.PathLike[str], options: LoadOptions) -> Parts:
    """Find and open `model` and make it ready; the tokeniser is built while the weights are packed."""
    options.check()
    path = resolve(model, options.progress)
    from ggufpy import format as gguf_format

    file = gguf_format.open(path)

    def make_tokenizer() -> Tokenizer:
        from ggufpy.tokenizers import load_tokenizer

        return load_tokenizer(file, pre=options.pre)

    def make_template() -> ChatTemplate | None:
        from ggufpy.chat import ChatTemplate, template_key

        return ChatTemplate.from_metadata(file, tokenizer.get()) if template_key(file.metadata) else None

    has_text = options.text and "tokenizer.ggml.model" in file.metadata
    tokenizer, template = Later(make_tokenizer), Later(make_template)

    def start_text() -> None:
        if has_text:
            tokenizer.start()
            template.start()

    try:
        from ggufpy import runtime
        from ggufpy.backends.options import EngineOptions

        how = EngineOptions(
            _context_size(options, file.metadata),
            options.n_threads,
            options.n_batch,
            options.progress,
            cache_type_k=options.cache_type_k,
            cache_type_v=options.cache_type_v,
            n_parallel=options.n_parallel,
        )
        engine = runtime.load(file, how, start_text)
    except BaseException:
        template.wait()  # it reads the file that is about to be closed
        tokenizer.wait()
        file.close()
        raise
    return Parts(os.fspath(path), engine, file, tokenizer, template)


def _context_size(options: LoadOptions, metadata: Mapping[str, Any]) -> int:
    """The context to ask the engine for."""
    own = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return min(options.n_ctx, own) if options.shorten and isinstance(own, int) else options.n_ctx
