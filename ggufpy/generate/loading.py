"""From a model's name and options to its parts: the engine with its packed weights, the tokeniser, the chat template.

Tokeniser and template are made by threads while weights are packed, so that a start takes no longer than the longest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ggufpy.backends.options import EngineOptions
from ggufpy.errors import GGUFError
from ggufpy.generate.unweighted import Unweighted
from ggufpy.hub import resolve
from ggufpy.support.options import ScaledPaths, Whole, option
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.chat import ChatTemplate
    from ggufpy.format import GGUFFile
    from ggufpy.format.overlay import Overlaid
    from ggufpy.generate.draft_functions import LlamaDraftModel
    from ggufpy.generate.drafters import Model
    from ggufpy.models.lora import Adapter
    from ggufpy.runtime import Engine
    from ggufpy.tokenizers import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class LoadOptions(EngineOptions):
    """How to load a model: how to run it, and what is wanted beside.

    `shorten`: an `n_ctx` above the model's own is not refused, but becomes that. `lookup` is how many tokens to draft
    from the text itself, `draft_model` a smaller model (a name, or one that is loaded) that drafts up to `draft_max`,
    or a function of the caller (`draft_functions.py`).
    `lora` are files of adapters and how much each counts. `pre` names another pre-tokeniser; `text` False leaves the
    tokeniser alone until it is asked for, `chats` False the chat template. `changes` are put over the file's metadata
    (`format/overlay.py`); `vocab_only` loads no weights.
    """

    shorten: bool = False
    lookup: int = option(
        0,
        Whole(0),
        "guess up to N tokens from what the text had before",
        "--lookup",
        metavar="N",
        default_text="0, off; 8 is a good start",
    )
    draft_model: str | os.PathLike[str] | Model | LlamaDraftModel | None = None
    draft_max: int = option(16, Whole(1), "tokens that the smaller model guesses at most", "--draft-max", metavar="N")
    lora: Sequence[tuple[str | os.PathLike[str], float]] = option(
        (),
        ScaledPaths(),
        "add a LoRA adapter (a .gguf file), which counts SCALE times; again for more",
        "--lora",
        metavar="FILE[=SCALE]",
        default_text="",
        repeated=True,
    )
    pre: str | None = None
    text: bool = True
    chats: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict)
    vocab_only: bool = False

    def check(self) -> None:
        """Raise GGUFError for what no model can do."""
        super().check()
        if self.lookup and self.draft_model is not None:
            raise GGUFError("drafts come from the text (lookup) or from a smaller model (draft_model), not from both")


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

    def made(self) -> T | None:
        """The value if it was made, once the thread is done."""
        self.wait()
        return self._made[0] if self._made else None

    def get(self) -> T:
        """The value; raises what making it raised."""
        self.wait()
        if self._thread is None and not self._made and self._error is None:
            try:
                self._made.append(self._make())
            except Exception as error:  # an interrupt is no answer: the next may have one
                self._error = error
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
    adapters: tuple[GGUFFile, ...] = ()
    scales: tuple[float, ...] = ()  # how much each adapter counts
    adapter_names: tuple[str, ...] = ()
    source: GGUFFile | Overlaid | None = None  # the file with changes over its metadata, where there are any

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that counts."""
        return (self.source or self.file).metadata


def load_parts(model: str | os.PathLike[str], options: LoadOptions) -> Parts:
    """Find and open `model` and make it ready; the tokeniser is built while the weights are packed."""
    options.check()
    path = resolve(model, options.progress)
    from ggufpy import format as gguf_format

    file = gguf_format.open(path)
    opened = [file]
    try:
        source = _changed(file, options)
    except BaseException:
        file.close()
        raise

    def make_tokenizer() -> Tokenizer:
        from ggufpy.tokenizers import tokenizer_of

        return tokenizer_of(source, options.pre)

    def make_template() -> ChatTemplate | None:
        from ggufpy.chat import ChatTemplate, Renderer, template_key

        if not template_key(source.metadata):
            return None
        renderer = Renderer()  # its process starts while the tokeniser is built
        try:
            return ChatTemplate.from_metadata(source, tokenizer.get(), renderer=renderer)
        except BaseException:
            renderer.close()
            raise

    has_text = options.text and "tokenizer.ggml.model" in source.metadata
    tokenizer, template = Later(make_tokenizer), Later(make_template)

    def start_text() -> None:
        if has_text:
            tokenizer.start()
            if options.chats:
                template.start()

    try:
        from ggufpy import runtime

        for name, _ in options.lora:
            opened.append(gguf_format.open(name))
        if options.vocab_only:
            start_text()
            engine: Engine = Unweighted(source.metadata)  # type: ignore[assignment]
        else:
            how = replace(options, n_ctx=_context_size(options, source.metadata))
            engine = runtime.load(source, how, start_text, _adapters(opened[1:], options))
    except BaseException:
        close_template(template)  # it reads the file that is about to be closed
        tokenizer.wait()
        for one in opened:
            one.close()
        raise
    scales = tuple(float(scale) for _, scale in options.lora)
    names = tuple(os.fspath(name) for name, _ in options.lora)
    return Parts(os.fspath(path), engine, file, tokenizer, template, tuple(opened[1:]), scales, names, source)


def _changed(file: GGUFFile, options: LoadOptions) -> GGUFFile | Overlaid:
    """The file, or what its metadata is with the changes that were asked for."""
    if not options.changes:
        return file
    from ggufpy.format.overlay import overlaid

    return overlaid(file, options.changes)


def close_template(template: Later[ChatTemplate | None]) -> None:
    """End the process of a template that was made."""
    made = template.made()
    if made is not None:
        made.close()


def _adapters(files: Sequence[GGUFFile], options: LoadOptions) -> list[Adapter]:
    """What open files have for the model. Raises GGUFError for what is no adapter."""
    if not files:
        return []
    from ggufpy.models import lora

    return [lora.read(file, os.fspath(path)) for file, (path, _) in zip(files, options.lora, strict=True)]


def _context_size(options: LoadOptions, metadata: Mapping[str, Any]) -> int:
    """The context to ask the engine for."""
    own = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return min(options.n_ctx, own) if options.shorten and isinstance(own, int) else options.n_ctx
