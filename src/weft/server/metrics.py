"""What Prometheus reads at /metrics: counts and times of requests, and the state of every engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from weft.server.answer import Answer
from weft.server.models import Models

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EACH = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_GAUGES = {
    "running": "Answers in the step of the engine.",
    "waiting": "Answers that the engine has not begun.",
    "free_blocks": "Blocks of the cache that nobody holds.",
    "total_blocks": "Blocks of the cache.",
}
_COUNTS = {
    "steps": "Steps of the model.",
    "prefix_queries": "Prompt tokens looked for in the prefix cache.",
    "prefix_hits": "Prompt tokens found there.",
    "proposed": "Speculative tokens proposed.",
    "accepted": "Speculative tokens accepted.",
}


class Metrics:
    """All metrics of one server."""

    def __init__(self, models: Models):
        self.registry = CollectorRegistry()
        self.registry.register(_Engines(models))
        self._requests = Counter(
            "weft_requests", "Requests answered.", ("route", "model", "status"), registry=self.registry
        )
        self._tokens = Counter("weft_tokens", "Tokens.", ("model", "kind"), registry=self.registry)
        self._first = Histogram(
            "weft_time_to_first_token_seconds",
            "From a request's queueing to its first token.",
            ("model",),
            buckets=_FIRST,
            registry=self.registry,
        )
        self._each = Histogram(
            "weft_time_per_token_seconds",
            "Between the tokens of an answer, after the first: its mean.",
            ("model",),
            buckets=_EACH,
            registry=self.registry,
        )

    def request(self, route: str, model: str, status: int, prompt_tokens: int, answers: list[Answer]) -> None:
        """Count a request that is over; ``model`` is empty where it reached none."""
        self._requests.labels(route, model, str(status)).inc()
        if not model:
            return
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "completion").inc(sum(answer.tokens for answer in answers))
        for answer in answers:
            if answer.first is None:
                continue
            self._first.labels(model).observe(answer.first - answer.submitted)
            if answer.ended is not None and answer.tokens > 1:
                self._each.labels(model).observe((answer.ended - answer.first) / (answer.tokens - 1))

    def text(self) -> bytes:
        """The exposition that Prometheus reads."""
        return generate_latest(self.registry)


class _Engines(Collector):
    """Reads the engines' latest statistics when it is asked."""

    def __init__(self, models: Models):
        self._models = models

    def collect(self) -> Iterator[Any]:
        """Gauges and counters of every model."""
        for name, text in _GAUGES.items():
            yield self._family(GaugeMetricFamily(f"weft_engine_{name}", text, labels=["model"]), name)
        for name, text in _COUNTS.items():
            yield self._family(CounterMetricFamily(f"weft_engine_{name}", text, labels=["model"]), name)
        up = GaugeMetricFamily("weft_engine_up", "Whether the model can be asked.", labels=["model"])
        open_ = GaugeMetricFamily("weft_open_answers", "Answers not finished.", labels=["model"])
        restarts = CounterMetricFamily("weft_engine_restarts", "Deaths of the engine.", labels=["model"])
        for served in self._models.all():
            up.add_metric([served.name], float(served.engine.up))
            open_.add_metric([served.name], served.engine.active)
            restarts.add_metric([served.name], served.engine.restarts)
        yield from (up, open_, restarts)

    def _family(self, family: Any, name: str) -> Any:
        for served in self._models.all():
            if served.engine.up and name in served.engine.stats:
                family.add_metric([served.name], served.engine.stats[name])
        return family
