"""A checkpoint's folder: config.json, and the files that have its tensors.

Nothing of the weights is read when it is opened, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufpy.convert.reading import read_object
from ggufpy.convert.safetensors import Stored, open_safetensors
from ggufpy.convert.sentence import read_modules
from ggufpy.errors import GGUFError
from ggufpy.format.atomic import check_target
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

_INDEX = "model.safetensors.index.json"
_NO_MODEL = ("adapter_model", "optimizer", "training_args", "scheduler")  # beginnings of files that are no weights
_WHOLE = "consolidated"  # Mistral's own file, beside the same weights in shards


@dataclass(frozen=True)
class Folder:
    """An open checkpoint: what config.json says, tensors by the names they are stored under, and the files read."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    files: Sequence[str]


def open_folder(path: Path, allow_pickle: bool = False, weights: bool = True, dense: bool = True) -> Folder:
    """Opens a checkpoint, without its tensors where `weights` is false; `dense`: with dense layers behind the pooling.

    Raises GGUFError where there is no config.json, for shards that are missing, and for files that are damaged.
    """
    if not path.is_dir():
        raise GGUFError(f"{path} is no folder; a checkpoint is a folder with config.json and files of weights")
    if not (path / "config.json").is_file():
        raise GGUFError(f"{path} has no config.json: give the folder of a Hugging Face checkpoint")
    config = with_modelopt(path, read_object(path / "config.json")) | read_modules(path, dense)
    if not weights:
        return Folder(path, config, {}, [str(path / "config.json")])
    tensors: dict[str, Stored] = {}
    files = _weight_files(path) or _pickles(path)
    pickled = [file for file in files if file.suffix != ".safetensors"]
    if pickled and not allow_pickle:
        raise GGUFError(
            f"{path} has its weights in {pickled[0].name}, a pickle of PyTorch: pass --allow-pickle to read it (only "
            "tensors are taken from it), or save the model as safetensors"
        )
    if not files:
        raise GGUFError(f"{path} has no weights: neither .safetensors nor pytorch_model.bin is there")
    for file in files:
        for name, tensor in _tensors_of(file).items():
            if name in tensors:
                raise GGUFError(f"{file}: tensor {shown(name)} is in another file of the checkpoint, too")
            tensors[name] = tensor
    return Folder(path, config, tensors, [str(file) for file in files])


def spare(target: Path, folders: Iterable[Path]) -> None:
    """GGUFError if writing `target` would replace a file of these folders that is no GGUF file."""
    files = (file for folder in folders for file in folder.glob("*") if file.suffix.lower() != ".gguf")
    check_target(target, (file for file in files if file.is_file()))


def with_modelopt(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """config.json, and where it does not say how weights are stored, what hf_quant_config.json of ModelOpt says."""
    file = path / "hf_quant_config.json"
    if config.get("quantization_config") or not file.is_file():
        return config
    said = read_object(file).get("quantization")
    if not isinstance(said, dict):
        raise GGUFError(f"{file} does not say how the weights are quantised")
    return {**config, "quantization_config": {**said, "quant_method": "modelopt"}}


def _tensors_of(file: Path) -> Mapping[str, Stored]:
    if file.suffix == ".safetensors":
        return open_safetensors(file).tensors
    from ggufpy.convert.pickles import open_pickle

    return open_pickle(file)


def _weight_files(path: Path) -> list[Path]:
    """The files of safetensors that an index names, or all there are."""
    index = path / _INDEX
    if index.is_file():
        return _indexed(path, index)
    files = sorted(file for file in path.glob("*.safetensors") if not file.name.startswith(_NO_MODEL))
    return [file for file in files if not file.name.startswith(_WHOLE)] or files


def _pickles(path: Path) -> list[Path]:
    index = path / "pytorch_model.bin.index.json"
    if index.is_file():
        return _indexed(path, index)
    return sorted(file for file in path.glob("*.bin") if not file.name.startswith(_NO_MODEL))


def _indexed(path: Path, index: Path) -> list[Path]:
    """The files of an index, in order. GGUFError for those that are missing, and for names that are none of a file."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise GGUFError(f"{index} has no weight_map of file names")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or name in ("", ".", "..") or not _can_be(name):
            raise GGUFError(f"{index} names {shown(name)}, which is no file of this folder")
    missing = [name for name in files if not (path / name).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise GGUFError(
            f"{path}: {', '.join(missing[:3])}{more}, named by {index.name}, "
            f"{'are' if len(missing) > 1 else 'is'} missing: download the checkpoint again"
        )
    return [path / name for name in files]


def _can_be(name: str) -> bool:
    """Whether a file may have the name, and an error show it as it is."""
    return name.isprintable() and len(name.encode()) <= 255
