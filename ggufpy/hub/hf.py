"""`hf:owner/repo[:file-or-quant]`: GGUF files and checkpoints of Hugging Face repositories.

They are fetched through huggingface_hub (extra `hub`). GGUF files that were fetched before are found without it, and a
checkpoint where the network fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import console
from ggufpy.support.records import dataclass

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


def snapshot(repo: str, cache: Path) -> Path | None:
    """The folder in huggingface_hub's cache that has the files of `repo`, if any were fetched."""
    home = cache / f"models--{repo.replace('/', '--')}"
    try:
        revision = (home / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return None
    return home / "snapshots" / revision


def local_files(repo: str, cache: Path) -> dict[str, Path]:
    """GGUF files of `repo` that the cache holds whole, by path inside the repository."""
    top = snapshot(repo, cache)
    return {} if top is None else {p.relative_to(top).as_posix(): p for p in top.rglob("*.gguf") if p.is_file()}


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


def kept_hf(name: str, cache: Path) -> Path | None:
    """The first file of `name` where all of it was fetched before. Raises GGUFError for what is no such name."""
    return _cached(parse(name), cache)


def pull_hf(name: str, cache: Path, force: bool = False) -> Path:
    """Fetch (or find) the files of `name` below `cache` and return the path of the first."""
    ref = parse(name)
    cached = None if force else _cached(ref, cache)
    if cached is not None:
        return cached
    library = client(name)

    def fetch() -> Path:
        files = choose(library.HfApi().list_repo_files(ref.repo), ref)
        paths = [library.hf_hub_download(ref.repo, file, cache_dir=cache, force_download=force) for file in files]
        return Path(paths[0])

    return fetched(name, fetch, lambda: None if force else choose_offline(ref, cache))


@dataclass(frozen=True)
class Wanted:
    """What a conversion reads besides the small files: weights, and whether they may be pickles of PyTorch."""

    weights: bool = True
    pickles: bool = False


def checkpoint_files(repo: str, files: list[str], wanted: Wanted) -> list[str]:
    """The files of a repository's list that a conversion reads: small ones at its top, and the weights.

    GGUFError where weights are wanted and there are none, or only pickles.
    """
    top = [file for file in files if "/" not in file]
    small = [f for f in top if f.endswith((".json", ".txt", ".jinja", ".model")) or f in ("README.md", "LICENSE")]
    small += [f for f in files if f.startswith("additional_chat_templates/") and f.endswith(".jinja")]
    small += [f for f in files if f.endswith("/config.json") and f.count("/") == 1]
    if not wanted.weights:
        return small
    small += [f for f in files if re.fullmatch(r"[^/]*Dense[^/]*/model\.safetensors", f)]  # behind a pooling
    plain = [f for f in top if f.endswith(".safetensors")]
    plain = [f for f in plain if not f.startswith("consolidated")] or plain
    pickled = [] if plain else [f for f in top if f.endswith(".bin")]
    if pickled and not wanted.pickles:
        raise GGUFError(f"the weights of {repo} are pickles ({pickled[0]}): pass --allow-pickle to fetch and read them")
    if not plain and not pickled:
        raise GGUFError(f"{repo} has no weights, neither .safetensors nor .bin: look for the model's own repository")
    return small + plain + pickled


def pull_checkpoint(name: str, cache: Path, wanted: Wanted) -> Path:
    """Fetch (or find) the checkpoint `hf:owner/repo` below `cache` and return its folder."""
    ref = parse(name)
    if ref.choice:
        raise GGUFError(f"{name}: a checkpoint is a whole repository, hf:{ref.repo}")
    library = client(name)

    def fetch() -> Path:
        files = checkpoint_files(ref.repo, library.HfApi().list_repo_files(ref.repo), wanted)
        return Path(library.snapshot_download(ref.repo, cache_dir=cache, allow_patterns=files))

    return fetched(name, fetch, lambda: _kept_checkpoint(ref.repo, cache, wanted))


def _kept_checkpoint(repo: str, cache: Path, wanted: Wanted) -> Path | None:
    """The folder of a checkpoint that was fetched before, as far as can be told without the repository's list."""
    folder = snapshot(repo, cache)
    if folder is None or not (folder / "config.json").is_file():
        return None
    ends = (".safetensors", ".bin") if wanted.pickles else (".safetensors",)
    return folder if not wanted.weights or any(file.suffix in ends for file in folder.iterdir()) else None


def client(name: str) -> Any:
    """huggingface_hub, quiet: its warnings of every retry would hide our one line. GGUFError where it is missing."""
    try:
        library = import_module("huggingface_hub")
    except ImportError as error:
        raise GGUFError(f"{name} needs huggingface_hub: run \"pip install 'ggufpy[hub]'\" and try again") from error
    utils: Any = import_module("huggingface_hub.utils")
    utils.logging.set_verbosity_error()
    if not console.is_terminal("stderr"):
        utils.disable_progress_bars()
    return library


def fetched(name: str, fetch: Callable[[], Path], kept: Callable[[], Path | None]) -> Path:
    """What `fetch` brings; where the network fails, what was `kept` of earlier times. GGUFError where there is none."""
    try:
        return fetch()
    except (GGUFError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # transport errors share no base class, and a panic of hf_xet is no Exception
        path = kept()
        if path is not None:
            return path
        raise _hf_error(name, error) from error


def choose_offline(ref: Reference, cache: Path) -> Path | None:
    """Without the network: the one file of the repository that is here, when that is what `ref` may mean."""
    here = local_files(ref.repo, cache)
    if ref.choice or not here:
        return None
    stems = {SHARD.sub("", file[:-5]) for file in here}
    return here[min(here)] if len(stems) == 1 else None


def _hf_error(name: str, error: BaseException) -> GGUFError:
    """One line for what huggingface_hub raised; class names are its public ones since 0.25."""
    repo = parse(name).repo
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return GGUFError(f"{repo} asks for its licence to be accepted: do so on huggingface.co, then set HF_TOKEN")
    if "RepositoryNotFoundError" in kinds:
        return GGUFError(f"no repository {repo} on Hugging Face (a private one needs HF_TOKEN): check the name")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return GGUFError(
        f"{name} is not in the cache and could not be fetched ({type(error).__name__}: {first}): check the "
        "network and try again, or give a path"
    )
