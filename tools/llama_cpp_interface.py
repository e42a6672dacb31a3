"""The interface of llama-cpp-python's Llama, read from its source without importing it, and how ours stands to it.

`read` gives arguments with their defaults; `table` writes the table of spec/llama_cpp.md. `tools/check_llama_cpp.py
--write-interface FILE` keeps what was read for the tests.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

Arguments = dict[str, Any]  # a name to its default; None also where the default is no plain value, "required" if none


def read(source: Path) -> dict[str, Any]:
    """{"constructor": arguments, "methods": {name: arguments}, "properties": names} of the class Llama in llama.py."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Llama")
    found: dict[str, Any] = {"constructor": {}, "methods": {}, "properties": []}
    for node in cls.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        kinds = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
        if node.name == "__init__":
            found["constructor"] = _arguments(node)
        elif node.name.startswith("_") and node.name != "__call__":
            continue
        elif "property" in kinds:
            found["properties"].append(node.name)
        else:
            found["methods"][node.name] = _arguments(node)
    return found


def _arguments(node: ast.FunctionDef) -> Arguments:
    args = node.args
    names = [arg.arg for arg in args.args]
    required = len(names) - len(args.defaults)
    made: Arguments = {name: "required" for name in names[:required] if name not in ("self", "cls")}
    made |= {name: _value(value) for name, value in zip(names[required:], args.defaults, strict=True)}
    made |= {arg.arg: _value(value) for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True)}
    return made


def _value(node: ast.expr | None) -> Any:
    """A default that is a plain value; those that are constants of llama.cpp are None."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def status(argument: str) -> tuple[str, str]:
    """What becomes of an argument of the constructor, and a word on why: taken, no effect, warns, refused."""
    from ggufpy.api import arguments
    from ggufpy.llm import Llama

    if argument in arguments.NO_EFFECT:
        return "no effect", arguments.NO_EFFECT[argument]
    if argument in arguments.WARNED:
        default, why = arguments.WARNED[argument]
        return f"warns unless {default!r}", why
    if argument in inspect.signature(Llama.__init__).parameters or argument in arguments.KNOWN:
        return "taken", NOTES.get(argument, "")
    return "refused", NOTES.get(argument, "")


# What is to be said of an argument that is taken.
NOTES = {
    "n_gpu_layers": 'of the last layers, with the output; also "auto"; a number warns where no card can be used',
    "tensor_split": "shares of whole layers",
    "model_path": "also a known name, or hf:owner/repo[:file]",
    "n_ctx": "0, the model's own, where nothing is said; 512 there",
    "verbose": "False where nothing is said; True there",
    "seed": "makes the texts of the object repeatable, which differ from one another",
    "type_k": "F16, BF16, Q8_0, Q4_0; others are refused",
    "type_v": "F16, BF16, Q8_0, Q4_0; others are refused",
    "embedding": "not needed: any model makes embeddings",
    "draft_model": "also the name of a smaller model, or a Llama",
    "chat_format": "the formats below, and what is registered",
    "lora_path": "also several",
    "lora_scale": "also one for each adapter",
    "pooling_type": "also by name",
    "rope_scaling_type": "also by name",
    "logits_all": "`scores` has all rows",
    "vocab_only": "no weights are loaded, and nothing can be evaluated",
    "kv_overrides": "any key, before the model is planned",
}


def table(interface: dict[str, Any]) -> str:
    """The rows of the constructor's arguments."""
    rows = ["| argument | here | note |", "|---|---|---|"]
    rows += [f"| `{name}` | {' | '.join(status(name))} |" for name in interface["constructor"]]
    return "\n".join(rows) + "\n"
