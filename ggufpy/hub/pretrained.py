"""Files of a Hugging Face repository by name or glob pattern, as `from_pretrained` of llama-cpp-python takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.hub import hf
from ggufpy.support import checks

Folder = str | os.PathLike[str] | None


def pretrained(
    repo_id: str, filename: str, additional: Sequence[str] = (), local_dir: Folder = None, cache_dir: Folder = None
) -> Path:
    """Fetches (or finds) the one file that `filename` matches, its other shards, and those of `additional` patterns.

    They come to `local_dir`, else to `cache_dir` (default: huggingface_hub's own). Raises GGUFError for a pattern that
    no file matches, or several that are not shards of one, and where nothing can be fetched.
    """
    if not hf.NAME.fullmatch(repo_id):
        raise GGUFError(f"repo_id is {checks.shown(repo_id)}; owner/repo is wanted, and the file's name beside it")
    name = f"hf:{repo_id}"
    ref = hf.parse(name)
    client = hf.client(name)
    where: dict[str, Any] = {"local_dir": local_dir, "cache_dir": cache_dir}

    def fetch() -> Path:
        files = client.HfApi().list_repo_files(ref.repo)
        chosen = [_matching(ref.repo, files, pattern) for pattern in (filename, *additional)]
        paths = [client.hf_hub_download(ref.repo, file, **where) for file in (file for some in chosen for file in some)]
        return Path(paths[0])

    def kept() -> Path | None:
        try:
            folder = Path(client.snapshot_download(ref.repo, local_files_only=True, **where))
            here = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return folder / _matching(ref.repo, here, filename)[0]
        except Exception:  # nothing of it is here: what fetching has raised says more
            return None

    return hf.fetched(name, fetch, kept)


def _matching(repo: str, files: Sequence[str], pattern: str) -> list[str]:
    """The file that a pattern means by its path or its name, with all its shards in order."""
    found = [
        file for file in sorted(files) if fnmatchcase(file, pattern) or fnmatchcase(file.rpartition("/")[2], pattern)
    ]
    stems = {hf.SHARD.sub("", file.removesuffix(".gguf")) for file in found}
    if len(stems) == 1:
        stem = stems.pop()
        shards = [file for file in sorted(files) if hf.SHARD.sub("", file.removesuffix(".gguf")) == stem]
        return shards if hf.SHARD.search(found[0].removesuffix(".gguf")) else found[:1]
    have = ", ".join(found or [file for file in files if file.endswith(".gguf")])[:400]
    problem = f"{len(found)} files match" if found else "no file matches"
    raise GGUFError(f"{repo}: {problem} {pattern!r}; choose one of: {have or 'it has no .gguf files'}")
