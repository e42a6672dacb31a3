"""What a model's file says of it, for listings: read once for each state of a file, from its header alone."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.format import GGUFFile

T = TypeVar("T")
Stamp = tuple[tuple[str, int, int], ...]  # path, bytes and nanoseconds of each file: another where one has changed
KEPT = 4096  # files that are remembered
SAMPLES, SAMPLE_BYTES, HEAD_BYTES = 64, 4096, 1 << 20  # of a file's data, of each, of its beginning
LONGEST = 1 << 16  # bytes of a text that `metadata` has


@dataclass(frozen=True)
class Facts:
    """A model by its header. `kind` is general.type ("model", "adapter", "mmproj", "imatrix", ...), `quantization`
    what its weights are in ("Q4_K_M"), `context` the positions that it was made for, 0 where the file does not say.

    `template` is the chat template's source. `tools` and `thinks`: whether it writes of tools, and of thoughts.
    `encoder`: it makes embeddings and no text; `ranks`: it scores texts. `metadata` has the values that are no arrays.
    """

    kind: str
    architecture: str
    name: str
    parameters: int
    quantization: str
    context: int
    width: int
    layers: int
    vocabulary: int
    template: str | None
    tools: bool
    thinks: bool
    encoder: bool
    ranks: bool
    metadata: Mapping[str, Any]


class Remembered(Generic[T]):
    """What was made of files, as long as they stay as they are; errors too. For any thread."""

    def __init__(self, make: Callable[[Sequence[Path]], T]) -> None:
        self._make = make
        self._known: OrderedDict[Stamp, T | GGUFError] = OrderedDict()
        self._lock = Lock()

    def get(self, files: Sequence[Path]) -> T:
        """Raises GGUFError for files that cannot be read."""
        stamp = stamp_of(files)
        with self._lock:
            found = self._known.get(stamp)
        if found is None:
            try:
                found = self._make(files)
            except GGUFError as error:
                found = error
            with self._lock:
                self._known[stamp] = found
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        if isinstance(found, GGUFError):
            raise GGUFError(str(found))
        return found


def stamp_of(files: Sequence[Path]) -> Stamp:
    """Raises GGUFError for a file that is not there."""
    stamps = []
    for file in files:
        try:
            stat = file.stat()
        except (OSError, ValueError) as error:
            raise GGUFError(f"cannot read {file.name}: {getattr(error, 'strerror', None) or error}") from None
        stamps.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(stamps)


def _facts(files: Sequence[Path]) -> Facts:
    from ggufpy import format as gguf_format

    with gguf_format.open(files[0]) as file:
        return _of_file(file)


def _of_file(file: GGUFFile) -> Facts:
    from ggufpy.chat import template_key

    said = file.metadata
    architecture = said.get("general.architecture")
    if not isinstance(architecture, str):
        raise GGUFError("the metadata has no general.architecture: the file does not say what model it is")

    def number(key: str) -> int:
        value = said.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    sizes: Counter[str] = Counter()
    weights = 0
    for tensor in file.tensors.values():
        sizes[tensor.type] += tensor.nbytes
        weights += math.prod(tensor.shape)
    tokens = "tokenizer.ggml.tokens"
    vocabulary = said.count(tokens) if tokens in said and said.type(tokens) == "array[string]" else 0
    key = template_key(said)
    template = _text(said[key]) if key else None
    name = said.get("general.name", "")
    pooling = said.get(f"{architecture}.pooling_type")
    causal = said.get(f"{architecture}.attention.causal", True)
    return Facts(
        str(said.get("general.type", "model")), architecture, _text(name) or "", weights,
        _quantization(said.get("general.file_type"), sizes), number("context_length"), number("embedding_length"),
        number("block_count"), vocabulary, template, template is not None and "tools" in template,
        template is not None and any(word in template for word in ("<think>", "enable_thinking", "reasoning_content")),
        causal is False, pooling == RANK, _plain(said),
    )  # fmt: skip


RANK = 4  # of <architecture>.pooling_type (include/llama.h of llama.cpp, enum llama_pooling_type)


def _quantization(number: object, sizes: Counter[str]) -> str:
    """The name of general.file_type, else the type of most bytes."""
    from ggufpy.quantizer import FILE_TYPES

    named = {each.number: name for name, each in FILE_TYPES.items() if each.default}
    if isinstance(number, int) and number in named:
        return named[number]
    return sizes.most_common(1)[0][0] if sizes else ""


def _plain(said: Any) -> dict[str, Any]:
    """Values that are numbers, flags and texts of bearable length, as JSON can have them."""
    kept: dict[str, Any] = {}
    for key in said:
        if said.type(key).startswith("array"):
            continue
        value = said[key]
        if isinstance(value, str):
            value = _text(value) if len(value) <= LONGEST else None
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            kept[_text(key) or ""] = value
    return kept


def _text(value: object) -> str | None:
    """A text of a file; bytes that are not UTF-8 become U+FFFD."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of the files' lengths, of their beginnings, and of samples all over their data: of a large file not all
    is read, and another quantisation or training still gives another digest."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(size.to_bytes(8, "little"))
                digest.update(file.read(HEAD_BYTES))
                for i in range(SAMPLES if size > HEAD_BYTES else 0):
                    file.seek(HEAD_BYTES + (size - HEAD_BYTES) * i // SAMPLES)
                    digest.update(file.read(SAMPLE_BYTES))
        except OSError as error:
            raise GGUFError(f"cannot read {path.name}: {error.strerror or error}") from None
    return digest.hexdigest()


class Reader:
    """What files say of themselves, remembered."""

    def __init__(self) -> None:
        self.facts = Remembered(_facts).get
        self.digest = Remembered(_digest).get
