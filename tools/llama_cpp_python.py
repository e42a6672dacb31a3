"""llama-cpp-python's programs and tests, run with our package in place of theirs.

    python tools/llama_cpp_python.py SCRIPT [ARGUMENT ...]      runs a script so
    python -m pytest -p llama_cpp_python TESTS                  runs tests so (this folder on PYTHONPATH)

`import llama_cpp` gives `ggufpy.llama_cpp`, and what would be fetched from Hugging Face is a local file:
GGUFPY_CHECK_FILES in the environment is JSON with names of repositories, or "*" for any other, and paths; "tokenizer"
is the folder of a tokenizer. `tools/check_llama_cpp.py` starts both.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MODULES = (
    "llama", "llama_cache", "llama_chat_format", "llama_cpp", "llama_grammar", "llama_speculative", "llama_tokenizer",
    "llama_types",
)  # fmt: skip


def install() -> None:
    """Puts our package in place of llama_cpp, and local files in place of downloads."""
    sys.modules["llama_cpp"] = importlib.import_module("ggufpy.llama_cpp")
    for name in MODULES:
        sys.modules[f"llama_cpp.{name}"] = importlib.import_module(f"ggufpy.llama_cpp.{name}")
    # tests/test_llama.py imports it for its low-level test alone, which is left out
    for package in ("llama_cpp", "ggufpy.llama_cpp"):
        sys.modules[f"{package}._internals"] = ModuleType(f"{package}._internals")
    from ggufpy.llm import Llama

    own: Any = Llama
    own._ctx = SimpleNamespace(ctx=object())  # a pointer that a test asks for, and does nothing with
    files = json.loads(os.environ.get("GGUFPY_CHECK_FILES", "{}"))
    if files:
        _local_files(files)


def _local_files(files: dict[str, str]) -> None:
    import huggingface_hub

    from ggufpy.llama_cpp.llama_tokenizer import LlamaHFTokenizer
    from ggufpy.llm import Llama

    def found(repo_id: str, *args: Any, **kwargs: Any) -> str:
        path = files.get(repo_id, files.get("*"))
        if path is None:
            raise FileNotFoundError(f"no local file is there for {repo_id}")
        return path

    def from_pretrained(cls: type[Llama], repo_id: str, filename: str | None = None, **kwargs: Any) -> Llama:
        return cls(found(repo_id), **kwargs)

    def tokenizer(cls: type[LlamaHFTokenizer], name: str) -> LlamaHFTokenizer:
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(files["tokenizer"]))

    replaced: list[tuple[Any, str, Any]] = [
        (huggingface_hub, "hf_hub_download", found),
        (Llama, "from_pretrained", classmethod(from_pretrained)),
        (LlamaHFTokenizer, "from_pretrained", classmethod(tokenizer)),
    ]
    for owner, name, function in replaced:
        setattr(owner, name, function)


def pytest_configure(config: Any) -> None:
    """pytest's hook: before tests are imported."""
    install()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    install()
    runpy.run_path(sys.argv[0], run_name="__main__")
