"""What sentence-transformers keeps beside a checkpoint: the modules that a text's rows go through, behind the model.

modules.json names them in their order, each with a folder of its own: Pooling (config.json), Dense (config.json, and
weights whose tensors are linear.weight and linear.bias), Normalize. In config.json as conversion sees it they are
"sentence_pooling", "sentence_dense" and "sentence_normalize"; "sentence_other" names those that nothing here knows.
Layout: https://github.com/huggingface/sentence-transformers, sentence_transformers/models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufpy.convert.reading import read_json, read_object
from ggufpy.convert.safetensors import open_safetensors
from ggufpy.convert.writing import write_json, write_safetensors
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows
from ggufpy.format.values import shown
from ggufpy.models.checkpoint import HfConfig
from ggufpy.models.encoders import dense_layers

MODULES = "modules.json"
KEYS = ("sentence_pooling", "sentence_dense", "sentence_normalize", "sentence_other")
_POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}  # and what GGUF calls them
_POOLINGS_NOW = {"mean": "mean", "cls": "cls", "lasttoken": "last"}  # of newer versions, by "pooling_mode"
_MODE = "pooling_mode_"
_LINEAR = "linear.weight"
_PACKAGE = "sentence_transformers.models"
_SIZES = ("in_features", "out_features")
_NOTHING = "torch.nn.modules.linear.Identity"


# -- reading -----------------------------------------------------------------------------------------------------------


def read_modules(path: Path, dense: bool = True) -> dict[str, Any]:
    """What the modules say, by KEYS; without Dense where these are not wanted.

    Raises GGUFError for a pooling that no file can say, and for modules that are damaged.
    """
    said: dict[str, Any] = {}
    other: list[str] = []
    layers: list[dict[str, Any]] = []
    for i, (kind, where) in enumerate(_named(path)):
        if kind == "Pooling" and "sentence_pooling" not in said:
            said["sentence_pooling"] = _pooling(path, where)
        elif kind == "Dense" and not dense:
            continue
        elif kind == "Dense" and "sentence_normalize" not in said and not other:
            layers.append(_dense(path, where))
        elif kind == "Normalize":
            said["sentence_normalize"] = True
        elif i > 0 and kind != "Dropout":  # the first is the model itself
            other.append(where or kind)
    return {**said, **({"sentence_dense": layers} if layers else {}), **({"sentence_other": other} if other else {})}


def _named(path: Path) -> Iterator[tuple[str, str]]:
    """Kind and folder of each module."""
    modules = read_json(path / MODULES) if (path / MODULES).is_file() else []
    for module in modules if isinstance(modules, list) else []:
        if not isinstance(module, dict):
            raise GGUFError(f"{path / MODULES} has {shown(str(module))} where a module is due")
        yield str(module.get("type")).rpartition(".")[2], str(module.get("path") or "")


def _config(path: Path, where: str) -> dict[str, Any]:
    """config.json of a module. GGUFError for a folder that is not within."""
    if Path(where).name != where or where in ("", ".", ".."):
        raise GGUFError(f"{path}: {MODULES} names {shown(where)}, which is no folder of this one")
    return read_object(path / where / "config.json")


def _pooling(path: Path, where: str) -> str:
    said = _config(path, where)
    modes = [key.removeprefix(_MODE) for key, value in said.items() if key.startswith(_MODE) and value is True]
    names = [_POOLINGS.get(mode) for mode in modes]
    if said.get("pooling_mode") is not None:
        names = [_POOLINGS_NOW.get(str(said["pooling_mode"]))]
    if len(names) != 1 or names[0] is None:
        raise GGUFError(f"{path}: {where}/config.json asks for a pooling that is none of mean, cls and last")
    return names[0]


def _dense(path: Path, where: str) -> dict[str, Any]:
    """A layer's folder, sizes, whether it has a bias, and its activation; what is not said is as in the package."""
    said = HfConfig(_config(path, where))
    try:
        sizes = {name: said.count(name) for name in _SIZES}
        activation = said.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
        return {"path": where, **sizes, "bias": said.flag("bias", True), "activation": activation}
    except GGUFError as e:  # which begins with config.json
        raise GGUFError(f"{path / where}: {e}") from None


def weight_names(said: Mapping[str, Any]) -> dict[str, str]:
    """Names of the Dense layers' tensors, and in what folders they are: "2_Dense.linear.weight", "2_Dense"."""
    folders = [layer.text("path") for layer in dense_layers(HfConfig(said))]
    return {f"{folder}.{_LINEAR}": folder for folder in folders}


def read_weights(path: Path, said: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Rows]:
    """Of these tensors those that rules want. Raises GGUFError where they are missing, or not alone."""
    return {name: _weight(path / folder) for name, folder in weight_names(said).items() if name in wanted}


def _weight(folder: Path) -> Rows:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise GGUFError(
            f"{file} is missing, the weights of a layer behind the pooling: download the checkpoint again, save them "
            "as safetensors, or convert with --no-sentence-transformers-dense-modules"
        )
    tensors = open_safetensors(file).tensors
    if set(tensors) != {_LINEAR}:
        raise GGUFError(f"{file} must have {_LINEAR} alone; it has {', '.join(map(shown, list(tensors)[:4]))}")
    return tensors[_LINEAR]


def left_out(config: HfConfig, architecture: str, made: Collection[str]) -> list[str]:
    """Lines that name the modules of which the file has nothing: `made` are names of its tensors and keys."""
    lines = []
    if "sentence_pooling" in config and f"{architecture}.pooling_type" not in made:
        kind = config.text("sentence_pooling")
        lines.append(f"left out: the pooling, {kind}; ask for it where you embed (ggufpy embed --pooling {kind})")
    names = [] if "dense_2.weight" in made else [_described(layer) for layer in dense_layers(config)]
    names += [shown(str(name)) for name in config.items("sentence_other", [])]
    if names:
        lines.append(
            f"left out: {', '.join(names)}, which sentence-transformers applies to embeddings, and which no "
            f"file of {architecture} can say: embeddings are those without"
        )
    return lines


def _described(layer: HfConfig) -> str:
    parts = [f"{layer.count('in_features')} to {layer.count('out_features')}"]
    parts += ["a bias"] if layer.flag("bias") else []
    parts += [shown(layer.text("activation"))] if layer.text("activation") != "Identity" else []
    return f"{shown(layer.text('path'))} ({', '.join(parts)})"


# -- writing -----------------------------------------------------------------------------------------------------------


def write_modules(folder: Path, said: Mapping[str, Any], width: int, tensors: Mapping[str, Rows]) -> int:
    """modules.json and the modules' folders; nothing where `said` has none of KEYS. Returns bytes of weights."""
    if not any(said.get(key) for key in KEYS):
        return 0
    modules = [_entry(0, "Transformer", "")]
    if "sentence_pooling" in said:
        modules.append(_entry(1, "Pooling", "1_Pooling"))
        _write_pooling(folder / "1_Pooling", said["sentence_pooling"], width)
    size = 0
    for layer, (name, where) in zip(dense_layers(HfConfig(said)), weight_names(said).items(), strict=True):
        modules.append(_entry(len(modules), "Dense", where))
        size += _write_dense(folder / where, layer, tensors[name])
    if said.get("sentence_normalize"):
        modules.append(_entry(len(modules), "Normalize", f"{len(modules)}_Normalize"))
    write_json(folder / MODULES, modules)
    return size


def _entry(i: int, kind: str, path: str) -> dict[str, Any]:
    return {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.{kind}"}


def _write_pooling(folder: Path, kind: str, width: int) -> None:
    folder.mkdir()
    modes = {_MODE + mode: name == kind for mode, name in _POOLINGS.items()}
    write_json(folder / "config.json", {"word_embedding_dimension": width, **modes})


def _write_dense(folder: Path, layer: HfConfig, weight: Rows) -> int:
    folder.mkdir()
    sizes = {name: layer.count(name) for name in _SIZES}
    write_json(folder / "config.json", {**sizes, "bias": False, "activation_function": _NOTHING})
    write_safetensors(folder / "model.safetensors", {_LINEAR: weight})
    return weight.nbytes
