"""What Prometheus is told: the books, the queues and the models of a server, read when they are asked for.

Names that begin with "llamacpp:" are llama-server's (tools/server/README.md), those with "ggufpy_" are ours; both have
the label `model`. Reading costs some lists; nothing of prometheus_client is called while requests are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ggufpy.server.tally import Histogram, Tally
from ggufpy.support.version import __version__

if TYPE_CHECKING:
    from ggufpy.server.served import Served
    from ggufpy.server.service import Service

MODEL = ("model",)
# Of the tally of each model: name without "_total", help, value.
_COUNTERS: Sequence[tuple[str, str, Callable[[Tally], float]]] = (
    ("llamacpp:prompt_tokens", "Tokens of prompts that were evaluated.", lambda t: t.prompt_tokens),
    ("llamacpp:prompt_tokens_cached", "Tokens of prompts that had been read before.", lambda t: t.cached_tokens),
    ("llamacpp:prompt_seconds", "Seconds until first tokens, without waiting.", lambda t: t.prompt_seconds),
    ("llamacpp:tokens_predicted", "Tokens of answers.", lambda t: t.tokens),
    ("llamacpp:tokens_predicted_seconds", "Seconds from first tokens to last ones.", lambda t: t.decode_seconds),
    ("ggufpy_generations", "Requests that generated, by model.", lambda t: t.requests),
)
_GAUGES: Sequence[tuple[str, str, Callable[[Tally], float]]] = (
    ("llamacpp:n_tokens_max", "Tokens of the longest text, with its prompt.", lambda t: t.longest),
    (
        "llamacpp:prompt_tokens_seconds",
        "Tokens of prompts a second, on average.",
        lambda t: t.prompt_tokens / t.prompt_seconds if t.prompt_seconds else 0.0,
    ),
    (
        "llamacpp:predicted_tokens_seconds",
        "Tokens of answers a second, on average.",
        lambda t: t.tokens / t.decode_seconds if t.decode_seconds else 0.0,
    ),
)
_HISTOGRAMS: Sequence[tuple[str, str, Callable[[Tally], Histogram]]] = (
    ("ggufpy_time_to_first_token_seconds", "From a request to its first token, with loads and waits.",
     lambda t: t.first_token),
    ("ggufpy_time_per_token_seconds", "Mean time of a text's tokens behind the first one.", lambda t: t.per_token),
    ("ggufpy_queue_wait_seconds", "For a place among those of the model.",
     lambda t: t.waits),
    ("ggufpy_prompt_tokens", "Tokens of a request's prompts.", lambda t: t.prompts),
    ("ggufpy_answer_tokens", "Tokens of a request's answers.", lambda t: t.answers),
)  # fmt: skip
# Of each loaded model.
_LOADED: Sequence[tuple[str, str, Callable[[Served], float]]] = (
    ("llamacpp:requests_processing", "Texts that are evaluated.", lambda s: s.queue.taken),
    ("llamacpp:requests_deferred", "Texts that wait for a place.", lambda s: s.queue.texts),
    (
        "llamacpp:n_busy_slots_per_decode",
        "Places taken in a step, on average.",
        lambda s: s.busy_steps / s.steps if s.steps else 0.0,
    ),
    ("ggufpy_places", "Texts that can be evaluated at once.", lambda s: s.queue.places),
    ("ggufpy_context_tokens", "Tokens that the context of a text holds.", lambda s: s.llm.n_ctx()),
    ("ggufpy_model_load_seconds", "How long the model took to be loaded.", lambda s: s.load_seconds),
    ("ggufpy_model_memory_bytes", "Memory that the model was reckoned to take.", lambda s: s.memory),
    ("ggufpy_model_loaded_timestamp_seconds", "When the model was loaded.", lambda s: s.since),
)


class Books(Collector):
    """What a server has done, and what it is at."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Names are not checked against others': those of one server are all there are."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield from self._tallies()
        yield from self._requests()
        yield from self._models()

    def _tallies(self) -> Iterator[Metric]:
        tallies = dict(self._service.book.tallies)
        for served in self._service.pool.loaded:
            tallies.setdefault(served.name, Tally())
        for name, told, value in _COUNTERS:
            counter = CounterMetricFamily(name, told, labels=MODEL)
            for model, tally in tallies.items():
                counter.add_metric([model], value(tally))
            yield counter
        for name, told, value in _GAUGES:
            gauge = GaugeMetricFamily(name, told, labels=MODEL)
            for model, tally in tallies.items():
                gauge.add_metric([model], value(tally))
            yield gauge
        for name, told, of in _HISTOGRAMS:
            yield _histogram(name, told, "model", {model: of(tally) for model, tally in tallies.items()})

    def _requests(self) -> Iterator[Metric]:
        book = self._service.book
        requests = CounterMetricFamily(
            "ggufpy_requests", "Requests, by model, route and status.", labels=("model", "route", "status")
        )
        for (model, route, status), count in book.requests.items():
            requests.add_metric([model, route, str(status)], count)
        yield requests
        refused = CounterMetricFamily(
            "ggufpy_requests_refused", "Requests that could not be answered, by reason.", labels=("route", "reason")
        )
        for (route, reason), count in book.refused.items():
            refused.add_metric([route, reason], count)
        yield refused
        gone = CounterMetricFamily(
            "ggufpy_requests_cancelled", "Requests whose clients have left.", labels=("model", "route")
        )
        for (model, route), count in book.cancelled.items():
            gone.add_metric([model, route], count)
        yield gone
        yield GaugeMetricFamily("ggufpy_requests_open", "Requests that are being answered.", book.open)
        yield _histogram("ggufpy_request_seconds", "From a request to the end of its answer.", "route", book.seconds)

    def _models(self) -> Iterator[Metric]:
        loaded = self._service.pool.loaded
        for name, told, value in _LOADED:
            gauge = GaugeMetricFamily(name, told, labels=MODEL)
            for served in loaded:
                gauge.add_metric([served.name], value(served))
            yield gauge
        steps = CounterMetricFamily("llamacpp:n_decode", "Steps of the engine.", labels=MODEL)
        for served in loaded:
            steps.add_metric([served.name], served.steps)
        yield steps
        yield GaugeMetricFamily("ggufpy_models_loaded", "Models that are loaded.", len(loaded))
        info = GaugeMetricFamily("ggufpy_build_info", "The version.", labels=("version",))
        info.add_metric([__version__], 1)
        yield info
        started = self._service.started
        yield GaugeMetricFamily("ggufpy_start_timestamp_seconds", "When the server was started.", started)


def _histogram(name: str, told: str, label: str, of: dict[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, told, labels=(label,))
    for value, histogram in of.items():
        family.add_metric([value], histogram.cumulative, histogram.total)
    return family


def registry(service: Service) -> CollectorRegistry:
    """A server's own metrics, and those of its process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Books(service))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
