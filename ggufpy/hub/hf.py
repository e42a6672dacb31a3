"""`hf:owner/repo[:file-or-quant]`: GGUF files of Hugging Face repositories.

They are fetched through huggingface_hub (extra `hub`).
What was fetched before is found without the network, and without importing huggingface_hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import console

PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")  # which quantisation `hf:owner/repo` means, first that there is
SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Reference:
    """A parsed `hf:` name; `choice` is a file, a quantisation, or empty."""

    repo: str
    choice: str


def parse(name: str) -> Reference:
    """Split `hf:owner/repo[:file-or-quant]`; raises GGUFError for any other shape."""
    repo, _, choice = name.removeprefix("hf:").partition(":")
    if not NAME.fullmatch(repo):
        raise GGUFError(f"{name!r} is not hf:owner/repo[:file-or-quant], such as hf:owner/model-GGUF:Q4_K_M")
    return Reference(repo, choice)


def choose(files: list[str], ref: Reference) -> list[str]:
    """The files to load for `ref` out of a repository's list: one, or all shards of one, in order."""
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        if file.lower().endswith(".gguf"):
            groups.setdefault(SHARD.sub("", file[:-5]), []).append(file)
    models = {stem: shards for stem, shards in groups.items() if "mmproj" not in stem.lower()}
    if not models:
        raise GGUFError(f"{ref.repo} has no .gguf file: look for a repository whose name ends in -GGUF")
    if ref.choice:
        stems = _matching(groups, ref.choice)
    elif len(models) == 1:
        stems = list(models)
    else:
        stems = next((fits for quant in PREFERRED if (fits := _matching(models, quant))), [])
    if len(stems) == 1:
        return groups[stems[0]]
    have = ", ".join(sorted(stem.rpartition("/")[2] for stem in stems or models)[:12])
    what = f"{ref.choice!r} names {len(stems)} files" if ref.choice else "several files fit"
    raise GGUFError(f"{ref.repo}: {what}; put one of these after the colon, hf:{ref.repo}:NAME: {have}")


def _matching(groups: dict[str, list[str]], choice: str) -> list[str]:
    """Stems that are `choice` (path or file name), else those with it as a whole word, in any case."""
    wanted = SHARD.sub("", re.sub(r"\.gguf$", "", choice, flags=re.IGNORECASE)).lower()
    exact = [stem for stem in groups if wanted in (stem.lower(), stem.lower().rpartition("/")[2])]
    word = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?:$|[-._/])")
    # the file's own name first: a folder called Q4_K_M may hold more than the model
    named = [stem for stem in groups if word.search(stem.lower().rpartition("/")[2])]
    models = [stem for stem in named if "mmproj" not in stem.lower()]
    return exact or models or named or [stem for stem in groups if word.search(stem.lower())]


def local_files(repo: str, cache: Path) -> dict[str, Path]:
    """Files of `repo` that huggingface_hub's cache holds whole, by path inside the repository."""
    home = cache / f"models--{repo.replace('/', '--')}"
    try:
        revision = (home / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return {}
    top = home / "snapshots" / revision
    return {p.relative_to(top).as_posix(): p for p in top.rglob("*.gguf") if p.is_file()}


def _cached(ref: Reference, cache: Path) -> Path | None:
    """The first file of `ref` when every part of it is in the cache and the choice is not in doubt."""
    here = local_files(ref.repo, cache)
    if not here:
        return None
    try:
        chosen = choose(list(here), ref)
    except GGUFError:
        return None  # what is here is something else, or only part of it: the repository's own list decides
    shard = SHARD.search(chosen[0][:-5])
    whole = len(chosen) == (int(shard.group(2)) if shard else 1)
    sure = bool(ref.choice) or _matching({c[:-5]: [c] for c in chosen}, PREFERRED[0]) != []
    return here[chosen[0]] if whole and sure else None


def pull_hf(name: str, cache: Path, force: bool = False) -> Path:
    """Fetch (or find) the files of `name` below `cache` and return the path of the first."""
    ref = parse(name)
    cached = None if force else _cached(ref, cache)
    if cached is not None:
        return cached
    try:
        huggingface_hub: Any = import_module("huggingface_hub")
    except ImportError as error:
        raise GGUFError(
            f"{name} needs huggingface_hub: run \"pip install 'ggufpy[hub]'\" and try again"
        ) from error
    utils: Any = import_module("huggingface_hub.utils")
    utils.logging.set_verbosity_error()  # its warnings of every retry would hide our one line
    if not console.is_terminal("stderr"):
        utils.disable_progress_bars()
    try:
        files = choose(huggingface_hub.HfApi().list_repo_files(ref.repo), ref)
        paths = [
            huggingface_hub.hf_hub_download(ref.repo, file, cache_dir=cache, force_download=force)
            for file in files
        ]
    except (GGUFError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # transport errors share no base class, and a panic of hf_xet is no Exception
        offline = choose_offline(ref, cache)
        if offline is not None and not force:
            return offline
        raise _hf_error(name, ref, error) from error
    return Path(paths[0])


def checkpoint_files(files: list[str], pickles: bool) -> list[str]:
    """The files of a repository's list that a conversion reads: small ones at its top, and the weights."""
    top = [file for file in files if "/" not in file]
    small = [f for f in top if f.endswith((".json", ".txt", ".jinja", ".model")) or f in ("README.md", "LICENSE")]
    small += [f for f in files if f.startswith("additional_chat_templates/") and f.endswith(".jinja")]
    small += [f for f in files if f.endswith("/config.json") and f.count("/") == 1]
    small += [f for f in files if re.fullmatch(r"[^/]*Dense[^/]*/model\.safetensors", f)]  # behind a pooling
    weights = [f for f in top if f.endswith(".safetensors")]
    weights = [f for f in weights if not f.startswith("consolidated")] or weights
    return small + (weights or ([f for f in top if f.endswith(".bin")] if pickles else []))


def pull_checkpoint(name: str, cache: Path, pickles: bool) -> Path:
    """Fetch (or find) the checkpoint `hf:owner/repo` below `cache` and return its folder."""
    ref = parse(name)
    if ref.choice:
        raise GGUFError(f"{name}: a checkpoint is a whole repository, hf:{ref.repo}")
    try:
        huggingface_hub: Any = import_module("huggingface_hub")
    except ImportError as error:
        raise GGUFError(
            f"{name} needs huggingface_hub: run \"pip install 'ggufpy[hub]'\" and try again"
        ) from error
    utils: Any = import_module("huggingface_hub.utils")
    utils.logging.set_verbosity_error()
    if not console.is_terminal("stderr"):
        utils.disable_progress_bars()
    try:
        wanted = checkpoint_files(huggingface_hub.HfApi().list_repo_files(ref.repo), pickles)
        folder = huggingface_hub.snapshot_download(ref.repo, cache_dir=cache, allow_patterns=wanted)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _hf_error(name, ref, error) from error
    return Path(folder)


def choose_offline(ref: Reference, cache: Path) -> Path | None:
    """Without the network: the one file of the repository that is here, when that is what `ref` may mean."""
    here = local_files(ref.repo, cache)
    if ref.choice or not here:
        return None
    stems = {SHARD.sub("", file[:-5]) for file in here}
    return here[min(here)] if len(stems) == 1 else None


def _hf_error(name: str, ref: Reference, error: BaseException) -> GGUFError:
    """One line for what huggingface_hub raised; class names are its public ones since 0.25."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return GGUFError(
            f"{ref.repo} asks for its licence to be accepted: do so on huggingface.co, then set HF_TOKEN"
        )
    if "RepositoryNotFoundError" in kinds:
        return GGUFError(
            f"no repository {ref.repo} on Hugging Face (a private one needs HF_TOKEN): check the name"
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return GGUFError(
        f"{name} is not in the cache and could not be fetched ({type(error).__name__}: {first}): check the "
        f"network and run 'ggufpy pull {name}', or give the path of a .gguf file"
    )
