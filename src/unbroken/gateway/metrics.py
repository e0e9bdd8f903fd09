"""What `/metrics` says, gathered in plain numbers and put into Prometheus' words when it is asked for."""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

FIRST_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
DURATION_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

MAX_SERIES = 2000  # label sets in all; clients can invent model names under a glob
OTHER = "other"


class Buckets:
    """A histogram as a list of counts, one more than there are bounds, and the sum of what was observed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_right(self.bounds, value)] += 1
        self.total += value

    def add(self, counts: list[int], total: float) -> None:
        """Counts what was gathered elsewhere with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.total += total

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count up to it), as Prometheus wants it."""
        names = [*map(str, self.bounds), "+Inf"]
        running, rows = 0, []
        for name, count in zip(names, self.counts, strict=True):
            running += count
            rows.append((name, float(running)))
        return rows


@dataclass(slots=True)
class Answered:
    """What one model at one upstream has been asked for and gave."""

    requests: dict[str, int]
    input_tokens: int
    output_tokens: int
    first_token: Buckets
    gaps: Buckets
    duration: Buckets


@dataclass(frozen=True, slots=True)
class UpstreamSnapshot:
    """An upstream at the moment of asking; `state` is 1 for well, 0 for left alone."""

    name: str
    state: int
    open_requests: int


class Metrics:
    """The gateway's counters."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str], Answered] = {}
        self._responses: dict[tuple[str, str], int] = {}
        self._retries: dict[tuple[str, str], int] = {}
        self.open_streams = 0
        #: Gives the upstreams as they stand; set by whoever has them.
        self.upstreams: Callable[[], Iterable[UpstreamSnapshot]] = tuple
        #: Gives the exposition text of all workers; set where there are several.
        self.of_all_workers: Callable[[], Awaitable[bytes]] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self, model: str, upstream: str) -> Answered:
        """The counters of a model at an upstream."""
        key = (model, upstream)
        if (found := self._answered.get(key)) is None:
            if len(self._answered) >= MAX_SERIES and model != OTHER:
                return self.answered(OTHER, upstream)
            found = self._answered[key] = Answered(
                {}, 0, 0, Buckets(FIRST_TOKEN_BOUNDS), Buckets(GAP_BOUNDS), Buckets(DURATION_BOUNDS)
            )
        return found

    def count_response(self, route: str, status: int) -> None:
        """Counts one HTTP response."""
        key = (route, str(status))
        self._responses[key] = self._responses.get(key, 0) + 1

    def count_retry(self, upstream: str, fault: str) -> None:
        """Counts one failed attempt that was not the answer's last."""
        key = (upstream, fault)
        self._retries[key] = self._retries.get(key, 0) + 1

    def render(self) -> bytes:
        """The exposition text, `text/plain; version=0.0.4`."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Prometheus asks for the names at registration; ours do not clash."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        responses = CounterMetricFamily("unbroken_responses", "HTTP responses", labels=("route", "status"))
        for route, count in self._responses.items():
            responses.add_metric(route, count)
        retries = CounterMetricFamily(
            "unbroken_retries", "Failed attempts followed by another", labels=("upstream", "fault")
        )
        for retry, count in self._retries.items():
            retries.add_metric(retry, count)
        yield responses
        yield retries
        yield GaugeMetricFamily("unbroken_open_streams", "Streams being sent", value=self.open_streams)
        yield from self._collect_upstreams()
        yield from self._collect_answers()

    def _collect_upstreams(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "unbroken_upstream_up", "1 if requests are sent to the upstream", labels=("upstream",)
        )
        busy = GaugeMetricFamily("unbroken_upstream_open_requests", "Requests under way", labels=("upstream",))
        for upstream in self.upstreams():
            state.add_metric((upstream.name,), upstream.state)
            busy.add_metric((upstream.name,), upstream.open_requests)
        yield state
        yield busy

    def _collect_answers(self) -> Iterator[Metric]:
        labels = ("model", "upstream")
        requests = CounterMetricFamily("unbroken_requests", "Chat requests by outcome", labels=(*labels, "outcome"))
        tokens = CounterMetricFamily("unbroken_tokens", "Tokens", labels=(*labels, "direction"))
        first = HistogramMetricFamily("unbroken_first_token_seconds", "Request to first token", labels=labels)
        gaps = HistogramMetricFamily("unbroken_inter_token_seconds", "Between two reads of tokens", labels=labels)
        duration = HistogramMetricFamily("unbroken_duration_seconds", "Request to the end of its answer", labels=labels)
        for key, answered in self._answered.items():
            for outcome, count in answered.requests.items():
                requests.add_metric((*key, outcome), count)
            tokens.add_metric((*key, "input"), answered.input_tokens)
            tokens.add_metric((*key, "output"), answered.output_tokens)
            first.add_metric(key, answered.first_token.cumulative(), answered.first_token.total)
            gaps.add_metric(key, answered.gaps.cumulative(), answered.gaps.total)
            duration.add_metric(key, answered.duration.cumulative(), answered.duration.total)
        yield from (requests, tokens, first, gaps, duration)
