"""`from_pretrained`: which files of a repository are fetched, and what is there without a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ggufpy
from ggufpy.hub import hf
from ggufpy.hub.pretrained import pretrained

SHARDS = [f"big/b-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
FILES = ["README.md", "m.Q4_K_M.gguf", "m.Q8_0.gguf", "mmproj.gguf", *SHARDS]


class Hub:
    """huggingface_hub with one repository, that may be out of reach."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.reachable = folder, list[str](), True

    def HfApi(self) -> Any:
        return SimpleNamespace(list_repo_files=lambda repo: self.online([*reversed(FILES)]))

    def online(self, answer: Any) -> Any:
        if not self.reachable:
            raise ConnectionError("no route")
        return answer

    def hf_hub_download(self, repo: str, file: str, **where: Any) -> str:
        assert (repo, where) == ("a/b", {"local_dir": None, "cache_dir": None})
        path: Path = self.online(self.folder / file)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        self.fetched.append(file)
        return str(path)

    def snapshot_download(self, repo: str, local_files_only: bool, **where: Any) -> str:
        assert local_files_only
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(hf, "client", lambda name: made)
    return made


@pytest.mark.parametrize(
    ("pattern", "more", "files"),
    [
        ("m.Q8_0.gguf", [], ["m.Q8_0.gguf"]),
        ("*Q4_K_M.gguf", ["mmproj*"], ["m.Q4_K_M.gguf", "mmproj.gguf"]),
        ("big/*-00001-of-*", [], SHARDS),
        ("b-*.gguf", [], SHARDS),
    ],
)
def test_files_by_pattern(pattern: str, more: list[str], files: list[str], hub: Hub) -> None:
    assert pretrained("a/b", pattern, more) == hub.folder / files[0]
    assert hub.fetched == files
    hub.reachable = False  # what is here is found by the same pattern
    assert pretrained("a/b", pattern, more) == hub.folder / files[0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("m.*", "2 files match 'm.\\*'"), ("x*", "no file matches 'x\\*'; choose one of: .*m.Q8_0")],
)
def test_patterns_that_mean_no_file(pattern: str, message: str, hub: Hub) -> None:
    with pytest.raises(ggufpy.GGUFError, match=message):
        pretrained("a/b", pattern)
    assert hub.fetched == []


@pytest.mark.parametrize("name", ["a", "a/b/c", "hf:a/b", "a/b:Q4_0", ""])
def test_names_that_are_no_repository(name: str, hub: Hub) -> None:
    with pytest.raises(ggufpy.GGUFError, match=r"repo_id is .*owner/repo is wanted"):
        ggufpy.Llama.from_pretrained(name, "x.gguf")


def test_nothing_is_here_and_nothing_comes(hub: Hub) -> None:
    hub.reachable = False
    with pytest.raises(ggufpy.GGUFError, match=r"hf:a/b.*ConnectionError"):
        pretrained("a/b", "m.Q8_0.gguf")
