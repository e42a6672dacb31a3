"""The steps of a conversion, one after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ggufpy import models
from ggufpy.convert.folder import open_folder
from ggufpy.convert.general import general, overriding
from ggufpy.convert.keep import Keeper
from ggufpy.convert.model import Converted, architectures, converted, of_path, text_config, understood
from ggufpy.convert.options import ConvertOptions
from ggufpy.convert.peft import open_adapter
from ggufpy.convert.vocabulary import Vocabulary, vocabulary
from ggufpy.errors import GGUFError
from ggufpy.format import Typed
from ggufpy.format.rows import Rows
from ggufpy.format.writer import write
from ggufpy.models.checkpoint import metadata
from ggufpy.quantizer import Report
from ggufpy.quantizer.stream import quantize_source
from ggufpy.quantizer.types import COPY, FILE_TYPES
from ggufpy.support import checks

EMBEDDING = "token_embd.weight"
NOTHING = Vocabulary({"tokenizer.ggml.model": Typed("string", "none")}, (), 0)


def convert(
    folder: str | os.PathLike[str], target: str | os.PathLike[str], options: ConvertOptions | None = None
) -> Report:
    """Write the checkpoint in `folder` as a GGUF file to `target`, which gets its name when it is whole.

    Raises GGUFError, leaving what was at `target` as it was, for whatever is wrong with the checkpoint or the options.
    """
    options = ConvertOptions() if options is None else options
    path = of_path(Path(checks.path("folder", folder)))
    target = Path(checks.path("target", target))
    if options.vocab_only:
        return _vocabulary_alone(path, target, options)
    source = read(path, options)
    keeper = Keeper(options.file_type, options.keep)
    report = quantize_source(source, target, options.file_type, options.quantize, keeper)
    return replace(report, notes=[*source.notes, *report.notes, *keeper.notes()])


def read(path: Path, options: ConvertOptions) -> Converted:
    """The checkpoint as what will be written."""
    folder = open_folder(path, options.allow_pickle)
    model = understood(folder, [(open_adapter(Path(path)), scale) for path, scale in options.lora])
    size = model.tensors[EMBEDDING].shape[0] if EMBEDDING in model.tensors else None
    words = NOTHING if options.no_vocab else vocabulary(path, model.config.values, size)
    about, notes = general(path, folder.config, options.name, model.tensors.values())
    keys = {**about, "general.file_type": Typed("uint32", _main_type(model.tensors)), **words.keys}
    if options.metadata is not None:
        keys |= overriding(options.metadata)
    return converted(model, keys, folder.files, [*notes, *words.notes])


def _main_type(tensors: Mapping[str, Rows]) -> int:
    """The number of the file type that most matrices have, as they are."""
    types = Counter((t.exact or t).type for t in tensors.values() if len(t.shape) > 1)
    name = types.most_common(1)[0][0] if types else "F32"
    return FILE_TYPES[name if name in FILE_TYPES and name != COPY else "F32"].number


def _vocabulary_alone(path: Path, target: Path, options: ConvertOptions) -> Report:
    """A file of metadata and vocabulary, as --vocab-only asks."""
    folder = open_folder(path, weights=False)
    words = vocabulary(path, text_config(folder.config).values, None)
    if not words.keys:
        raise GGUFError(f"{path} has no tokenizer")
    config = text_config(folder.config)
    architecture, checkpoint = models.checkpoint_of(architectures(folder.config), config)
    about, notes = general(path, folder.config, options.name, [])
    keys = {"general.architecture": Typed("string", architecture), **about, **words.keys}
    if options.metadata is not None:
        keys |= overriding(options.metadata)
    write(target, {**keys, **metadata(checkpoint, architecture, checkpoint.completed(config))}, {})
    return Report(0, target.stat().st_size, 0.0, 0.0, [], [str(target)], [*notes, *words.notes])
