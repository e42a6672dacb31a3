"""ollama's listings of models and its pull: files of a folder, a hub that needs no network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

import ggufpy
from ggufpy import hub
from ggufpy.errors import GGUFError
from ggufpy.server.catalogue import Catalogue
from ggufpy.server.folder import Folder
from ggufpy.server.settings import ServerOptions

ollama = pytest.importorskip("ollama")
TEMPLATE = "{% for tool in tools %}{{ tool }}{% endfor %}{% if enable_thinking %}<think>{% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models: one of a name only, one that can do more, one for embeddings."""
    top = tmp_path / "models"
    top.mkdir()
    few = {"token_embd.weight": np.ones((8, 32), np.float32)}
    ggufpy.write(top / "plain.gguf", {"general.architecture": "llama"}, few)
    (top / "more").mkdir()
    able: dict[str, Any] = {"general.architecture": "llama", "general.file_type": 15, "general.license": "apache-2.0"}
    able |= {"llama.context_length": 4096, "tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.model": "gpt2"}
    able |= {"tokenizer.ggml.tokens": ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "a", "b", "c"]}
    able |= {"tokenizer.ggml.scores": [float("nan")] * 6, "llama.rope.freq_base": float("inf")}
    ggufpy.write(top / "more" / "able.gguf", able, {"token_embd.weight": np.ones((1 << 12, 320), np.float32)})
    vectors = {"general.architecture": "bert", "bert.pooling_type": 1, "bert.context_length": 512}
    ggufpy.write(top / "vectors.gguf", vectors, few)
    return top


@pytest.fixture
def server(folder: Path) -> Iterator[Running]:
    with serving({"fake": lambda: fake_llama(n_ctx=512)}, ServerOptions(allow_pull=True)) as running:
        running.service.pool.catalogue = Catalogue([], Folder(folder), allow_pull=True)
        yield running


@pytest.fixture
def client(server: Running) -> Any:
    return ollama.Client(server.url)


def test_models_are_listed_with_what_they_are(client: Any, folder: Path) -> None:
    found = {model.model: model for model in client.list().models}
    assert set(found) == {"plain:latest", "more/able:latest", "vectors:latest"}
    able = found["more/able:latest"]
    assert able.size == (folder / "more" / "able.gguf").stat().st_size
    assert len(able.digest) == 64
    assert able.digest != found["plain:latest"].digest
    assert able.modified_at.timestamp() == pytest.approx((folder / "more" / "able.gguf").stat().st_mtime, abs=0.01)
    details = able.details
    assert (details.format, details.family, details.families) == ("gguf", "llama", ["llama"])
    assert (details.parameter_size, details.quantization_level) == ("1.31M", "Q4_K_M")


def test_what_cannot_be_read_is_left_out(client: Any, folder: Path) -> None:
    (folder / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    assert len(client.list().models) == 3


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("plain", ["completion"]),
        ("more/able", ["completion", "tools", "insert", "thinking"]),
        ("able:latest", ["completion", "tools", "insert", "thinking"]),
        ("vectors", ["embedding"]),
    ],
)
def test_a_model_is_shown_with_what_it_can(client: Any, name: str, can: list[str]) -> None:
    assert client.show(name).capabilities == can


def test_metadata_is_shown_as_json_has_it(client: Any, server: Running) -> None:
    shown = client.show("able")
    assert shown.template == TEMPLATE
    assert TEMPLATE in shown.modelfile
    assert shown.license == "apache-2.0"
    assert shown.modelinfo["general.parameter_count"] == 320 << 12
    assert shown.modelinfo["llama.context_length"] == 4096
    assert shown.modelinfo["llama.rope.freq_base"] is None
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    whole = server.ask("/api/show", {"name": "able", "verbose": True}).json
    assert whole["model_info"]["tokenizer.ggml.tokens"][3:] == ["a", "b", "c"]
    assert whole["model_info"]["tokenizer.ggml.scores"] == [None] * 6
    assert whole["tensors"] == [{"name": "token_embd.weight", "type": "F32", "shape": [1 << 12, 320]}]


def test_text_that_is_no_unicode_is_no_failure(client: Any, folder: Path) -> None:
    said = {"general.architecture": "llama", "general.license": "\udc80", "x\u00e9": "\udcfe"}
    ggufpy.write(folder / "odd.gguf", said, {"token_embd.weight": np.ones((8, 32), np.float32)})
    shown = client.show("odd")
    assert (shown.license, shown.modelinfo["x\u00e9"]) == ("\ufffd", "\ufffd")
    assert "odd:latest" in [model.model for model in client.list().models]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "more/../plain/../../x", "..", "bytes\x00", "a" * 10_000])
def test_names_are_no_paths(server: Running, name: str) -> None:
    answer = server.ask("/api/show", {"model": name})
    assert answer.status == 404
    assert "not found" in answer.json["error"]
    assert len(answer.json["error"]) < 500


class Hub:
    """What fetches in the hub's place: it waits to be told to go on."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.asked = fails, list[str]()
        self.go = threading.Event()

    def __call__(self, name: str, progress: Callable[[str, int, int], None], force: bool = False) -> Path:
        self.asked.append(name)
        progress(f"downloading {name}", 10, 100)
        assert self.go.wait(20)
        progress(f"downloading {name}", 100, 100)
        if self.fails:
            raise GGUFError(self.fails)
        return Path("there")


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Hub]:
    """Makes a hub and puts it in the other's place."""
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path / "cache"))

    def put(fails: str = "") -> Hub:
        made = Hub(fails)
        monkeypatch.setattr(hub, "pull", made)
        return made

    return put


def test_a_pull_tells_how_far_it_is(client: Any, server: Running, hubs: Callable[..., Hub]) -> None:
    fetching = hubs()
    told = client.pull("smollm2", stream=True)
    first = next(told)
    while first.status == "pulling manifest":
        first = next(told)
    digest = hub.MODELS["smollm2"].sha256
    assert first.status == f"pulling {digest[:12]}"
    assert (first.digest, first.completed, first.total) == (f"sha256:{digest}", 10, 100)
    fetching.go.set()
    assert [part.status for part in told][-1] == "success"
    until(lambda: server.service.pulls.fetched == ["smollm2"])


def test_two_pulls_of_a_model_are_one(client: Any, server: Running, hubs: Callable[..., Hub]) -> None:
    fetching = hubs()
    some = [client.pull("smollm2", stream=True) for _ in range(3)]
    for each in some:
        next(each)
    fetching.go.set()
    assert {[part.status for part in each][-1] for each in some} == {"success"}
    assert fetching.asked == ["smollm2"]
    assert client.pull("smollm2:latest").status == "success"
    assert fetching.asked == ["smollm2", "smollm2"]  # the first one is over: this one is another


def test_a_client_that_leaves_ends_nothing(client: Any, server: Running, hubs: Callable[..., Hub]) -> None:
    fetching = hubs()
    told = client.pull("smollm2", stream=True)
    next(told)
    told.close()
    fetching.go.set()
    until(lambda: server.service.pulls.fetched == ["smollm2"])


def test_a_pull_that_fails_says_so(client: Any, hubs: Callable[..., Hub]) -> None:
    hubs("the index cannot be reached: connect once").go.set()
    with pytest.raises(ollama.ResponseError, match="cannot be reached"):
        list(client.pull("smollm2", stream=True))
    with pytest.raises(ollama.ResponseError, match="cannot be reached") as caught:
        client.pull("smollm2")
    assert caught.value.status_code == 400


def test_names_of_hugging_face_are_known_in_ollamas_form(client: Any, hubs: Callable[..., Hub]) -> None:
    fetching = hubs()
    fetching.go.set()
    assert client.pull("hf.co/owner/model-GGUF:Q4_0").status == "success"
    assert client.pull("huggingface.co/owner/model-GGUF").status == "success"
    assert fetching.asked == ["hf:owner/model-GGUF:Q4_0", "hf:owner/model-GGUF"]


@pytest.mark.parametrize(
    "name",
    ["llama3", "/etc/passwd", "hf:../..", "hf:a/..", "hf:a/b/c", "hf.co/a", "hf:a/b:../../x", "hf:a/b:\n", "x" * 9000],
)
def test_nothing_else_is_fetched(server: Running, hubs: Callable[..., Hub], name: str) -> None:
    fetching = hubs()
    fetching.go.set()
    answer = server.ask("/api/pull", {"model": name, "stream": False})
    assert answer.status == 400
    assert len(answer.json["error"]) < 500
    assert not fetching.asked


def test_only_some_are_fetched_at_once(server: Running, hubs: Callable[..., Hub]) -> None:
    fetching = hubs()
    client = ollama.Client(server.url)
    told = [client.pull(f"hf:owner/m{i}", stream=True) for i in range(4)]
    for each in told:
        next(each)
    answer = server.ask("/api/pull", {"model": "hf:owner/m5"})
    assert answer.status == 429
    assert answer.headers["retry-after"]
    fetching.go.set()
    assert {[part.status for part in each][-1] for each in told} == {"success"}


def test_pulls_take_their_fields(server: Running, hubs: Callable[..., Hub]) -> None:
    hubs().go.set()
    for field, said in (("insecure", "TLS"), ("username", "HF_TOKEN"), ("colour", "no field")):
        answer = server.ask("/api/pull", {"model": "smollm2", field: True})
        assert (answer.status, said in answer.json["error"]) == (400, True)
    assert server.ask("/api/pull", {"model": "smollm2", "insecure": False, "stream": False}).status == 200
