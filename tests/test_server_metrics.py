"""GET /metrics: that what is counted is what happened; the dashboard's names."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from llm_fakes import fake_llama
from serving import Running, serving, until

from ggufpy.api.shape import Spent, TextSpent
from ggufpy.server.problems import Problem
from ggufpy.server.settings import ServerOptions
from ggufpy.server.tally import LENGTHS, SECONDS, Book, Histogram

parser = pytest.importorskip("prometheus_client.parser")

DASHBOARD = Path(__file__).parent.parent / "examples" / "deploy" / "grafana-dashboard.json"
# llama-server's (tools/server/README.md), but for those of drafts, which are not counted for a server
LLAMA_SERVER = {
    "llamacpp:prompt_tokens_total", "llamacpp:prompt_seconds_total", "llamacpp:prompt_tokens_seconds",
    "llamacpp:tokens_predicted_total", "llamacpp:tokens_predicted_seconds_total", "llamacpp:predicted_tokens_seconds",
    "llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:n_tokens_max", "llamacpp:n_decode_total",
    "llamacpp:n_busy_slots_per_decode",
}  # fmt: skip

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def server() -> Iterator[Running]:
    models = {"one": lambda: fake_llama(n_ctx=4096, n_parallel=2), "two": lambda: fake_llama(n_ctx=64)}
    with serving(models, ServerOptions(queue=1)) as running:
        yield running


def samples(server: Running) -> Samples:
    answer = server.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = parser.text_string_to_metric_families(answer.body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def complete(server: Running, prompt: str = "hello", **more: Any) -> None:
    body = {"prompt": prompt, "n_predict": 4, "temperature": 0, **more}
    assert server.ask("/completion", body).status == 200


def test_llama_servers_names_are_there(server: Running) -> None:
    complete(server)
    names = {name for name, _ in samples(server)}
    assert names >= LLAMA_SERVER
    assert names >= {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}


def test_tokens_are_counted_by_model(server: Running) -> None:
    complete(server)
    complete(server)
    complete(server, "abc", model="two", n_cmpl=1)
    found = samples(server)
    assert of(found, "llamacpp:tokens_predicted_total", model="one") == 8
    assert of(found, "llamacpp:prompt_tokens_total", model="one") == 6 + 1
    assert of(found, "llamacpp:prompt_tokens_cached_total", model="one") == 5
    assert of(found, "llamacpp:tokens_predicted_total", model="two") == 4
    assert of(found, "llamacpp:n_tokens_max", model="one") == 10
    assert of(found, "ggufpy_generations_total", model="one") == 2
    assert of(found, "ggufpy_requests_total", model="one", route="/completion", status="200") == 2
    assert of(found, "ggufpy_prompt_tokens_sum", model="one") == 12
    assert of(found, "ggufpy_prompt_tokens_bucket", model="one", le="16.0") == 2
    assert of(found, "ggufpy_answer_tokens_count", model="two") == 1
    assert of(found, "ggufpy_time_to_first_token_seconds_count", model="one") == 2
    assert of(found, "ggufpy_time_per_token_seconds_count", model="one") == 2
    assert of(found, "ggufpy_models_loaded") == 2
    assert of(found, "ggufpy_places", model="one") == 2
    assert of(found, "llamacpp:n_decode_total", model="one") >= 8
    assert 0 < of(found, "llamacpp:n_busy_slots_per_decode", model="one") <= 2
    assert of(found, "llamacpp:requests_processing", model="one") == 0


def test_refusals_have_their_reasons(server: Running) -> None:
    server.ask("/completion", {"prompt": "a" * 5000})
    server.ask("/completion", {"nonsense": 1})
    server.ask("/completion", {"prompt": "a", "model": "three"})
    server.ask("/nothing", {})
    found = samples(server)
    for reason in ("context_length_exceeded", "status_400", "model_not_found"):
        assert of(found, "ggufpy_requests_refused_total", route="/completion", reason=reason) == 1
    assert of(found, "ggufpy_requests_total", model="one", route="/completion", status="400") == 2
    assert of(found, "ggufpy_requests_total", model="", route="/completion", status="404") == 1
    assert of(found, "ggufpy_requests_total", model="", route="other", status="404") == 1
    assert ("ggufpy_generations_total", (("model", "one"),)) in found  # it was loaded, and has generated nothing
    assert of(found, "ggufpy_generations_total", model="one") == 0


def test_what_is_at_work_and_who_left(server: Running) -> None:
    body = json.dumps({"prompt": "a", "n_predict": 4000, "ignore_eos": True, "stream": True, "temperature": 0}).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), 10) as client:
        client.sendall(head + body)
        assert client.recv(64).startswith(b"HTTP/1.1 200")
        found = samples(server)
        assert of(found, "llamacpp:requests_processing", model="one") == 1
        assert of(found, "ggufpy_requests_open") == 2  # and the one that looks
    until(lambda: not server.service.pool.loaded[0].queue.taken)
    until(lambda: ("ggufpy_requests_cancelled_total", (("model", "one"), ("route", "/completion"))) in samples(server))
    found = samples(server)
    assert of(found, "ggufpy_requests_total", model="one", route="/completion", status="499") == 1
    assert of(found, "llamacpp:tokens_predicted_total", model="one") > 0
    assert of(found, "ggufpy_requests_open") == 1


def test_other_interfaces_count_too(server: Running) -> None:
    messages = [{"role": "user", "content": "hello"}]
    server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 3, "temperature": 0})
    found = samples(server)
    assert of(found, "llamacpp:tokens_predicted_total", model="one") == 3
    assert of(found, "ggufpy_requests_total", model="one", route="/v1/chat/completions", status="200") == 1


def test_both_formats(server: Running) -> None:
    answer = server.ask("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
    assert "\nggufpy_models_loaded 0.0\n" in server.ask("/metrics").body.decode()


def test_books_grow_with_no_request() -> None:
    """A request adds to numbers and to lists of a fixed length."""
    book = Book()
    for i in range(1000):
        entry = book.begin("/completion")
        entry.model, entry.status = "m", 200
        entry.spent = Spent(10, 4, 5, 0.1, 0.0, 0.2, 1.0, (TextSpent(10, 4, 5, i % 2, 0.2, 1.0),))
        book.end(entry)
    tally = book.tallies["m"]
    assert (tally.requests, tally.tokens, tally.cached_tokens, tally.prompt_tokens) == (1000, 5000, 4000, 6000)
    assert len(tally.per_token.counts) == len(tally.per_token.bounds) + 1
    assert tally.per_token.total == pytest.approx(1000 * 1.0 / 4)
    assert book.open == 0


def test_a_request_that_waited_in_vain_is_no_generation() -> None:
    book = Book()
    entry = book.begin("/completion")
    entry.model, entry.spent = "m", Spent(10, 0, 0, texts=(TextSpent(10, 0, 0),))
    entry.status = 429
    entry.refused(Problem(429, "full", "queue_full"))
    book.end(entry)
    assert book.tallies == {}
    assert book.refused["/completion", "queue_full"] == 1


@pytest.mark.parametrize("bounds", [SECONDS, LENGTHS])
def test_histograms_count_values_up_to_each_bound(bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for bound in bounds:
        histogram.add(bound)
    histogram.add(bounds[-1] * 2)
    assert [count for _, count in histogram.cumulative] == [*range(1, len(bounds) + 2)]
    assert histogram.cumulative[-1][0] == "+Inf"


def test_the_dashboard_names_what_is_exported(server: Running) -> None:
    complete(server)
    server.ask("/completion", {"nonsense": 1})
    server.service.book.cancelled["one", "/completion"] += 1
    exported = {name for name, _ in samples(server)}
    board = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    named = {name for text in expressions for name in re.findall(r"(?:llamacpp:|ggufpy_|process_)\w+", text)}
    assert len(named) > 15
    assert named <= exported
    labels = {label for text in expressions for label in re.findall(r"by \(([^)]*)\)", text)}
    assert {one.strip() for some in labels for one in some.split(",")} <= {"model", "route", "status", "reason", "le"}
    for panel in board["panels"]:  # no two of them lie on one another
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
