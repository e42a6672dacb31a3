"""What ollama's listings say of a model: from its file's header to the records of /api/tags, /api/ps and /api/show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ggufpy.api.ollama import abilities
from ggufpy.api.ollama.moments import NEVER, written

if TYPE_CHECKING:
    from ggufpy.format import GGUFFile

Record = dict[str, Any]
FEW = 5  # elements of an array that is shown in any case
TOKENS = "tokenizer.ggml.tokens"
_STEPS = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0))


def human(count: int) -> str:
    """A number of parameters as ollama writes it: 134.52M, 1.2B (format.HumanNumber)."""
    for size, letter, digits in _STEPS:
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else digits}f}{letter}"
    return str(count)


def details(architecture: str, parameters: int, quantization: str) -> Record:
    """A model's `details`."""
    architecture = _clean(architecture)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": architecture,
        "families": [architecture] if architecture else [],
        "parameter_size": human(parameters) if parameters else "",
        "quantization_level": quantization,
    }


def listed(name: str, size: int, modified: float, digest: str, about: Record) -> Record:
    """A model of /api/tags; `modified` is in seconds of Unix time."""
    tagged = told_name(name)
    return {"name": tagged, "model": tagged, "modified_at": written(modified), "size": size, "digest": digest,
            "details": about}  # fmt: skip


def running(name: str, memory: int, digest: str, about: Record, expires: float | None, context: int) -> Record:
    """A model of /api/ps; none of its `memory` is on a graphics card."""
    tagged = told_name(name)
    return {"name": tagged, "model": tagged, "size": memory, "digest": digest, "details": about,
            "expires_at": NEVER if expires is None else written(expires), "size_vram": 0,
            "context_length": context}  # fmt: skip


def told_name(name: str) -> str:
    """A name as ollama's clients know it, always with a tag: "smollm2:latest", "hf.co/owner/repo:Q4_K_M"."""
    known = _clean(f"hf.co/{name[3:]}" if name.startswith("hf:") else name)
    return known if ":" in known else f"{known}:latest"


def asked_name(name: str) -> str:
    """The name that one of `told_name`, or of ollama's for Hugging Face, stands for."""
    for start in ("hf.co/", "huggingface.co/"):
        if name.lower().startswith(start):
            name = f"hf:{name[len(start) :]}"
    return name.removesuffix(":latest")


def shown(name: str, file: GGUFFile, modified: float, about: Record, verbose: bool) -> Record:
    """The answer of /api/show."""
    metadata = file.metadata
    template = metadata.get("tokenizer.chat_template", "")
    tokens = metadata[TOKENS] if TOKENS in metadata and metadata.type(TOKENS) == "array[string]" else []
    made: Record = {
        "modelfile": _modelfile(name, template),
        "parameters": "",
        "template": _clean(template),
        "details": about,
        "model_info": _info(file, verbose),
        "capabilities": abilities.capabilities(metadata, tokens),
        "modified_at": written(modified),
    }
    if isinstance(licence := metadata.get("general.license"), str):
        made["license"] = _clean(licence)
    if verbose:
        made["tensors"] = [
            {"name": _clean(each), "type": tensor.type, "shape": list(tensor.shape)}
            for each, tensor in file.tensors.items()
        ]
    return made


def parameters(file: GGUFFile) -> int:
    """How many weights a file has."""
    return sum(math.prod(tensor.shape) for tensor in file.tensors.values())


def _modelfile(name: str, template: object) -> str:
    """What stands for ollama's Modelfile: there is none here."""
    return f"# ggufpy serve has no Modelfiles; the chat template below is one of Jinja\nFROM {name}\n" + (
        f'TEMPLATE """{_clean(template)}"""\n' if template else ""
    )


def _info(file: GGUFFile, verbose: bool) -> Record:
    """The metadata, long arrays as null unless they are wanted; without the template, which has its own place."""
    metadata = file.metadata
    made: Record = {"general.parameter_count": parameters(file)}
    for key in metadata:
        if key.startswith("tokenizer.chat_template") or key == "general.name":
            continue
        long = metadata.type(key).startswith("array") and metadata.count(key) > FEW
        made[_clean(key)] = None if long and not verbose else _plain(metadata[key])
    return made


def _plain(value: Any) -> Any:
    """A value that JSON has: numbers that it has not are null, text that is no UTF-8 has U+FFFD for what is wrong."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _clean(text: object) -> str:
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
