"""Checking a whole GGUF file: an open file in, what is wrong with its weights and metadata out.

The header and the other files of a set are checked when the file is opened. Here every scale of every block and
every float is looked at, in pieces on a few threads, so that memory stays bounded whatever the file's size; and what
the metadata say of each other and of the tensors is compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.format import blocktypes
from ggufpy.format.header import align_up
from ggufpy.format.reader import GGUFFile
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import shown
from ggufpy.quants.base import Records
from ggufpy.support.records import dataclass

PIECE = 8 << 20  # bytes of a tensor that a thread takes at a time
_TOKENS = "tokenizer.ggml.tokens"
_BLOCK = re.compile(r"blk\.([0-9]{1,9})\.")
# What llama.cpp reads of every language model but vocabularies (src/llama-model.cpp, load_hparams), and of llama.
_REQUIRED = ("context_length", "embedding_length", "block_count")
_LLAMA = ("attention.head_count", "feed_forward_length", "attention.layer_norm_rms_epsilon")

Progress = Callable[[str, int, int], None]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Problem:
    """Something wrong, in a line. For weights also the tensor, how many blocks or values are bad, and where the first
    one stands: its index in the tensor (NumPy order) and its byte in the file."""

    message: str
    tensor: str = ""
    count: int = 0
    index: tuple[int, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Finding:
    """Of one piece: bytes looked at, bad blocks, the first of them in the tensor, its field, any byte not zero."""

    nbytes: int
    bad: int
    first: int
    field: str
    filled: bool


def check_tensors(file: GGUFFile, threads: int, progress: Progress | None = None) -> tuple[list[Problem], list[str]]:
    """Every tensor's data: problems (a scale or value that is infinite or NaN), and warnings (all bytes zero)."""
    tensors = list(file.tensors.values())
    total, done = sum(t.nbytes for t in tensors), 0
    problems: list[Problem] = []
    warnings: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for tensor in tensors:
            findings: list[Finding] = []
            starts = iter(_starts(tensor))
            while batch := list(islice(starts, 4 * threads)):
                for finding in pool.map(lambda start, t=tensor: look(t, start), batch):
                    findings.append(finding)
                    done += finding.nbytes
                    if progress is not None:
                        progress("check", done, total)
            tensor.release()
            if any(f.bad for f in findings):
                problems.append(_weights_problem(tensor, findings))
            elif findings and not any(f.filled for f in findings) and tensor.nbytes > 64:
                warnings.append(f"tensor {shown(tensor.name)} is all zeros; was the file fetched to its end?")
    return problems, warnings


def _starts(tensor: Tensor) -> range:
    block = blocktypes.by_name(tensor.type).nbytes
    return range(0, tensor.nbytes, max(PIECE // block, 1) * block)


def look(tensor: Tensor, start: int) -> Finding:
    """Look at the piece of a tensor's data from byte `start`, the start of a block."""
    layout = blocktypes.by_name(tensor.type)
    part = tensor.data.reshape(-1)[start : start + max(PIECE // layout.nbytes, 1) * layout.nbytes]
    filled = bool(part.any())
    if tensor.byteorder == "big":
        part = blocktypes.swapped(part, layout)
    block = quants.by_id(layout.id)
    records: Records = np.ascontiguousarray(part).view(block.record)
    bad: Bits | None = None
    first, name = -1, ""
    for field, wrong in block.faults(records):
        if wrong.any():
            bad = wrong if bad is None else bad | wrong  # two scales of one block are one bad block
            at = start // layout.nbytes + int(wrong.argmax())
            if first < 0 or at < first:
                first, name = at, field.name
    return Finding(part.size, 0 if bad is None else int(np.count_nonzero(bad)), first, name, filled)


def _weights_problem(tensor: Tensor, findings: list[Finding]) -> Problem:
    first = next(f for f in findings if f.bad)
    count = sum(f.bad for f in findings)
    layout = blocktypes.by_name(tensor.type)
    index = tuple(int(i) for i in np.unravel_index(first.first * layout.weights, tensor.shape)) if tensor.shape else ()
    offset = tensor.offset + first.first * layout.nbytes
    if layout.dtype or layout.weights == 1:
        what = f"{count:,} of {math.prod(tensor.shape):,} values are infinite or NaN"
    else:
        blocks = tensor.nbytes // layout.nbytes
        what = f"{count:,} of {blocks:,} {tensor.type} blocks have an infinite or NaN scale ({first.field})"
    where = f"the first at [{', '.join(map(str, index))}], byte {offset}"
    return Problem(f"tensor {shown(tensor.name)}: {what}, {where}", tensor.name, count, index, offset)


def check_metadata(file: GGUFFile) -> Iterator[Problem]:
    """What the metadata lack, or contradict each other or the tensors in."""
    for message in (*_tokenizer(file), *_architecture(file)):
        yield Problem(message)


def _tokenizer(file: GGUFFile) -> Iterator[str]:
    metadata = file.metadata
    prefix = "tokenizer.ggml."
    if _TOKENS not in metadata:
        if "tokenizer.ggml.model" in metadata and metadata["tokenizer.ggml.model"] not in ("none", "no_vocab"):
            yield f"there is no {_TOKENS}, though tokenizer.ggml.model names a tokenizer"
        return
    if metadata.type(_TOKENS) != "array[string]":
        yield f"{_TOKENS} is {metadata.type(_TOKENS)}, not array[string]"
        return
    count = metadata.count(_TOKENS)
    for key, wanted in (("scores", "array[float32]"), ("token_type", "array[int32]")):
        name = prefix + key
        if name not in metadata:
            continue
        kind = metadata.type(name)
        if kind != wanted and not (key == "token_type" and kind == "array[uint32]"):
            yield f"{name} is {kind}, not {wanted}"
        elif metadata.count(name) != count:
            yield f"{name} has {metadata.count(name):,} elements, and {_TOKENS} has {count:,}"
    for name in metadata:
        if name.startswith(prefix) and name.endswith("_token_id"):
            value = metadata[name]
            # All bits set stands for "none" in files of old converters.
            if not _whole(value) or (not 0 <= value < count and value not in (-1, 2**32 - 1)):
                yield f"{name} is {_brief(value)}, and there are {count:,} tokens"


def _architecture(file: GGUFFile) -> Iterator[str]:
    """Keys of the model, where the file is one: not a vocabulary, an adapter or measurements."""
    metadata, tensors = file.metadata, file.tensors
    if metadata.get("general.type", "model") != "model" or not len(tensors):
        return
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or not name:
        yield "there is no general.architecture that names the kind of model"
        return
    if "token_embd.weight" not in tensors:  # encoders of images and sound have keys of their own
        return
    for key in (*_REQUIRED, *(_LLAMA if name == "llama" else ())):
        if f"{name}.{key}" not in metadata:
            yield f"there is no {name}.{key}, which llama.cpp needs"
    yield from _blocks(file, metadata.get(f"{name}.block_count"))
    shape = tensors["token_embd.weight"].shape
    width = metadata.get(f"{name}.embedding_length", shape[-1] if shape else 0)
    count = metadata.count(_TOKENS) if _TOKENS in metadata and metadata.type(_TOKENS).startswith("array") else None
    if len(shape) != 2:
        yield f"token_embd.weight has shape {list(shape)}; two dimensions are wanted"
        return
    if _whole(width) and shape[1] != width:
        yield f"token_embd.weight has rows of {shape[1]:,}, and {name}.embedding_length is {width:,}"
    if count is not None and shape[0] != count:
        yield f"token_embd.weight has {shape[0]:,} rows, and {_TOKENS} has {count:,} elements"


def _blocks(file: GGUFFile, count: Any) -> Iterator[str]:
    """Layers by tensor names against the count that the metadata give."""
    layers = {int(match[1]) for match in map(_BLOCK.match, file.tensors) if match is not None}
    if not _whole(count) or not layers:
        return
    missing = next((i for i in range(min(count, len(layers) + 1)) if i not in layers), None)
    if missing is not None:
        yield f"there is no tensor of layer {missing} (blk.{missing}.), and the block_count is {count:,}"
    if max(layers) >= count:
        yield f"there are tensors of layer {max(layers)}, and the block_count is {count:,}"


def check_sizes(file: GGUFFile) -> Iterator[str]:
    """Warnings about bytes that belong to no tensor."""
    if len(file.files) > 1:  # the tensors of a set do not say which file they are of
        return
    end = max((t.offset + t.nbytes for t in file.tensors.values()), default=0)
    size = Path(file.files[0]).stat().st_size
    if end and size > align_up(end, file.alignment):
        yield f"{size - end:,} bytes follow the last tensor"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
