"""Embeddings, ranks and the list of models over HTTP."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import Factories, Running, serving
from small_chat import write_chat_model
from test_embeddings import WIDTH, classifier_of, llama, plan_of
from test_plan import source_of

import ggufpy
from ggufpy.format import ArraySource
from ggufpy.server.catalogue import Catalogue, Given
from ggufpy.server.settings import ServerOptions

PATH, RANKS = "/v1/embeddings", "/v1/rerank"


def ranker() -> ggufpy.Llama:
    """A model with a classifier of one label."""
    plan = plan_of()
    rng = np.random.default_rng(4)
    given = {"cls.weight": (rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32)}
    given["cls.output.weight"] = rng.standard_normal((1, WIDTH)).astype(np.float32)
    whole = ArraySource({}, {**{name: t.to_numpy() for name, t in source_of(plan).tensors.items()}, **given})
    found = classifier_of(whole, **{"classifier.output_labels": ["a"]})
    return llama(replace(plan, pooling="rank", classifier=found), whole)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    plan = plan_of()
    models = {"vectors": lambda: llama(plan, source_of(plan), n_parallel=2), "ranker": ranker}
    with serving(models, ServerOptions(timeout=30)) as running:
        yield running


# -- embeddings --


@pytest.mark.parametrize("given", ["hello", ["hello"], [*b"hello"], [[*b"hello"]]])
def test_inputs_of_every_form(server: Running, given: Any) -> None:
    made = server.ask(PATH, {"input": given}).json
    assert (made["object"], made["model"]) == ("list", "vectors")
    (one,) = made["data"]
    assert (one["object"], one["index"], len(one["embedding"])) == ("embedding", 0, WIDTH)
    assert np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-5)
    assert made["usage"]["prompt_tokens"] == made["usage"]["total_tokens"] > 0


def test_many_inputs_come_in_their_order(server: Running) -> None:
    texts = ["a" * n for n in (120, 1, 60, 1, 9)]
    made = server.ask(PATH, {"input": texts}).json
    assert [each["index"] for each in made["data"]] == [0, 1, 2, 3, 4]
    alone = [server.ask(PATH, {"input": text}).json["data"][0]["embedding"] for text in texts]
    assert [each["embedding"] for each in made["data"]] == alone
    assert made["usage"]["prompt_tokens"] == sum(map(len, texts)) + 5


def test_forms_of_vectors(server: Running) -> None:
    plain = np.array(server.ask(PATH, {"input": "hello"}).json["data"][0]["embedding"])
    coded = server.ask(PATH, {"input": "hello", "encoding_format": "base64"}).json["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), plain.astype(np.float32))
    raw = np.array(server.ask(PATH, {"input": "hello", "embd_normalize": -1}).json["data"][0]["embedding"])
    np.testing.assert_allclose(raw / np.linalg.norm(raw), plain, atol=1e-6)
    short = np.array(server.ask(PATH, {"input": "hello", "dimensions": 8}).json["data"][0]["embedding"])
    np.testing.assert_allclose(short, plain[:8] / np.linalg.norm(plain[:8]), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "input", "missing"),
        ({"input": []}, "input", "empty"),
        ({"input": [[]]}, "input", "empty"),
        ({"input": ["a", 1]}, "input[1]", "token ids"),
        ({"input": [1, "a"]}, "input[1]", "whole number"),
        ({"input": [[1], [999]]}, "input[1][0]", "999"),
        ({"input": {"a": 1}}, "input", "text"),
        ({"input": ["a"] * 2049}, "input", "2,048"),
        ({"input": "a" * 500}, "input", "the context holds 150"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": "a", "dimensions": 9999}, "dimensions", "have 64"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "base64"),
        ({"input": "a", "embd_normalize": 1}, "embd_normalize", "-1"),
        ({"input": "a", "inputs": "a"}, "inputs", "did you mean input?"),
        ({"input": "a", "model": "ranker"}, None, "/v1/rerank"),
    ],
)
def test_embeddings_that_cannot_be(server: Running, body: dict[str, Any], param: str | None, said: str) -> None:
    answer = server.ask(PATH, body)
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (400, param), error
    assert said in error["message"]


def test_a_client_that_goes_ends_its_embeddings(server: Running) -> None:
    body = json.dumps({"input": ["a" * 140] * 2000}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server.ask(PATH, {"input": "a"})
    queue = server.service.pool.loaded[0].queue
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as client:
        client.sendall(head + body)
        _until(lambda: queue.taken > 0)
    _until(lambda: not queue.taken and not queue.waiting)


def _until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


# -- ranks --


@pytest.mark.parametrize("path", [RANKS, "/rerank", "/reranking", "/v1/reranking"])
def test_documents_come_best_first(server: Running, path: str) -> None:
    documents = ["hello", {"text": "there"}, "you"]
    made = server.ask(path, {"model": "ranker", "query": "hi", "documents": documents}).json
    assert (made["model"], made["object"]) == ("ranker", "list")
    scores = {each["index"]: each["relevance_score"] for each in made["results"]}
    with ranker() as llm:
        assert [scores[i] for i in range(3)] == llm.rank("hi", ["hello", "there", "you"])
    assert [each["relevance_score"] for each in made["results"]] == sorted(scores.values(), reverse=True)
    assert made["usage"]["total_tokens"] == made["usage"]["prompt_tokens"] > 0


def test_what_is_told_of_documents(server: Running) -> None:
    body = {"model": "ranker", "query": "hi", "documents": ["hello", "there", "you"], "top_n": 2}
    made = server.ask(RANKS, {**body, "return_documents": True}).json["results"]
    assert len(made) == 2
    assert all(each["document"] == {"text": body["documents"][each["index"]]} for each in made)
    tei = server.ask(RANKS, {"model": "ranker", "query": "hi", "texts": body["documents"], "return_text": True}).json
    assert [each["index"] for each in tei][:2] == [each["index"] for each in made]
    assert all(each["text"] == body["documents"][each["index"]] for each in tei)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"documents": ["a"]}, "query", "missing"),
        ({"query": "a"}, "documents", "missing"),
        ({"query": "a", "documents": []}, "documents", "from 1"),
        ({"query": "a", "documents": "a"}, "documents", "list"),
        ({"query": "a", "documents": [1]}, "documents[0]", "text"),
        ({"query": "a", "documents": [{"title": "a"}]}, "documents[0].text", "text"),
        ({"query": "a", "documents": ["a"], "texts": ["a"]}, "documents", "one of them"),
        ({"query": ["a"], "documents": ["a"]}, "query", "text"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n", "at least 1"),
        ({"query": "a", "documents": ["a"], "rank_fields": []}, "rank_fields", "no field"),
        ({"query": "a", "documents": ["a" * 500]}, "documents", "the context holds 150"),
        ({"query": "a", "documents": ["a"], "model": "vectors"}, None, "no classifier"),
    ],
)
def test_ranks_that_cannot_be(server: Running, body: dict[str, Any], param: str | None, said: str) -> None:
    answer = server.ask(RANKS, {"model": "ranker", **body})
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (400, param), error
    assert said in error["message"]


# -- models --


def test_models_are_listed_with_what_their_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_chat_model(tmp_path)
    given = [Given(("small", "other"), str(path)), Given(("gone",), "")]
    monkeypatch.setattr(Catalogue, "of_names", lambda names: Catalogue(given))
    monkeypatch.setattr(Factories, "load", lambda self, entry, progress: ggufpy.Llama(path, n_ctx=256, n_threads=1))
    with serving({}) as server:
        assert [one["status"] for one in server.ask("/v1/models").json["data"]] == [{"value": "unloaded"}] * 2
        server.ask(PATH, {"input": "a", "model": "other"})
        listed = server.ask("/v1/models").json
        small, gone = listed["data"]
        assert [one["id"] for one in server.ask("/models").json["data"]] == ["small", "gone"]
        assert server.ask("/v1/models/small").json == server.ask("/models/other").json == small
        missing = server.ask("/v1/models/large")
    assert listed["object"] == "list"
    assert [small[name] for name in ("id", "object", "owned_by", "aliases")] == ["small", "model", "ggufpy", ["other"]]
    assert small["created"] == int(path.stat().st_mtime)
    assert small["status"] == {"value": "loaded"}
    meta = small["meta"]
    assert (meta["n_vocab"], meta["n_ctx"], meta["n_ctx_train"], meta["size"]) == (258, 256, 4096, path.stat().st_size)
    with ggufpy.open(path) as file:
        assert meta["n_params"] == sum(int(np.prod(tensor.shape)) for tensor in file.tensors.values())
    assert gone["meta"] is None
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
