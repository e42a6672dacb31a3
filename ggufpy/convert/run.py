"""The steps of a conversion, one after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ggufpy.convert.folder import open_folder, spare
from ggufpy.convert.general import general, overriding
from ggufpy.convert.keep import Keeper
from ggufpy.convert.model import Converted, all_keys, converted, known, of_path, understood
from ggufpy.convert.options import ConvertOptions
from ggufpy.convert.peft import open_adapter
from ggufpy.convert.vocabulary import Vocabulary, vocabulary
from ggufpy.errors import GGUFError
from ggufpy.format import Typed
from ggufpy.format.atomic import check_target
from ggufpy.format.rows import Rows
from ggufpy.models.checkpoint import metadata
from ggufpy.quantizer import Report
from ggufpy.quantizer.stream import quantize_source
from ggufpy.quantizer.types import FILE_TYPES
from ggufpy.support import checks

EMBEDDING = "token_embd.weight"
NOTHING = Vocabulary({"tokenizer.ggml.model": Typed("string", "none")}, (), 0)


def convert(
    folder: str | os.PathLike[str], target: str | os.PathLike[str], options: ConvertOptions | None = None
) -> Report:
    """Write the checkpoint in `folder` as a GGUF file to `target`, which gets its name when it is whole.

    Raises GGUFError, leaving what was at `target` as it was, for whatever is wrong with the checkpoint or the options,
    and where `target` is a file of the checkpoint or of an adapter.
    """
    options = ConvertOptions() if options is None else options
    path = of_path(Path(checks.path("folder", folder)))
    target = Path(checks.path("target", target))
    source = vocabulary_alone(path, options) if options.vocab_only else read(path, options)
    dry = options.quantize.dry_run
    if not dry:
        spare(target, [path, *(Path(adapter) for adapter, _ in options.lora)])
        check_target(target, [] if options.metadata is None else [options.metadata])
    keeper = Keeper(options.file_type, options.keep)
    report = quantize_source(source, target, options.file_type, options.quantize, keeper)
    return replace(report, notes=[*source.notes, *report.notes, *keeper.notes(compared=not dry)])


def read(path: Path, options: ConvertOptions) -> Converted:
    """The checkpoint as what will be written."""
    folder = open_folder(path, options.allow_pickle, dense=options.dense)
    model = understood(folder, [(open_adapter(Path(path)), scale) for path, scale in options.lora])
    shape = model.tensors[EMBEDDING].shape if EMBEDDING in model.tensors else ()
    try:
        words = NOTHING if options.no_vocab else vocabulary(path, model.config.values, shape[0] if shape else None)
    except GGUFError as error:
        raise GGUFError(f"{error}; --no-vocab converts without the tokenizer") from None
    about, notes = general(path, folder.config, options.name, model.tensors.values())
    about |= {"general.file_type": Typed("uint32", _main_type(model.tensors)), **words.keys}
    own = metadata(model.checkpoint, model.architecture, model.config)
    keys = all_keys(model.architecture, about, own, _said(options))
    return converted(model, keys, folder.files, [*notes, *words.notes])


def vocabulary_alone(path: Path, options: ConvertOptions) -> Converted:
    """Metadata and vocabulary without tensors, as --vocab-only asks."""
    folder = open_folder(path, weights=False, dense=options.dense)
    architecture, checkpoint, config = known(folder.config)
    words = vocabulary(path, config.values, None)
    about, notes = general(path, folder.config, options.name, [])
    own = metadata(checkpoint, architecture, config)
    keys = all_keys(architecture, {**about, **words.keys}, own, _said(options))
    return Converted(architecture, keys, {}, folder.files, [*notes, *words.notes])


def _said(options: ConvertOptions) -> dict[str, Typed]:
    return {} if options.metadata is None else overriding(options.metadata)


def _main_type(tensors: Mapping[str, Rows]) -> int:
    """The number of the file type that most matrices have, where they stay as they are."""
    types = Counter((t.exact or t.near or t).type for t in tensors.values() if len(t.shape) > 1)
    name = types.most_common(1)[0][0] if types else "F32"
    return next((known.number for known in FILE_TYPES.values() if known.default == name), FILE_TYPES["F32"].number)
