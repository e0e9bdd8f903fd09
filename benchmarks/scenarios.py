"""What is asked of the gateways, which figures count, and the goals that they are held against."""

from dataclasses import dataclass
from typing import Any

from kernel import files_allowed

WANTED_STREAMS = 10_000
SPARE_FILES = 100  # of a gateway that has two open for each stream
OPEN_STREAMS = min(WANTED_STREAMS, (files_allowed() - SPARE_FILES) // 2)

FRONT = ("direct", "nginx", "unbroken")
DURABLE = ("sqlite", "valkey")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of one target against another's in the same run: `ratio`, `difference`, or as it is."""

    figure: str
    base: str = ""
    kind: str = "value"

    @property
    def title(self) -> str:
        """The head of its column."""
        sign = {"ratio": "×", "difference": "over", "value": ""}[self.kind]
        return f"{self.figure} {sign} {self.base}".strip()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load, and what is read from it."""

    name: str
    meaning: str
    flags: tuple[str, ...]
    targets: tuple[str, ...]
    figures: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    rounds_at_most: int = 1000
    #: Each run has a fresh process, for its memory.
    is_fresh: bool = False
    #: Reads a finished durable stream of this model.
    resumes: str = ""
    #: Measures the start, without any load.
    is_start: bool = False


def _ratio(figure: str, base: str = "nginx") -> Comparison:
    return Comparison(figure, base, "ratio")


def _over(figure: str, base: str = "direct") -> Comparison:
    return Comparison(figure, base, "difference")


def _flags(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _engine(connections: int) -> Scenario:
    return Scenario(
        f"engine-{connections}",
        f"the embedded engine with the demo model, {connections} at a time: through the gateway and straight to"
        " llama.cpp's own server; nothing is pinned",
        _flags(
            f"--model unbroken-demo --real --chunks 200 --connections {connections} --stream --warmup 1 --seconds 4"
        ),
        ("llama.cpp", "engine"),
        ("tokens/s", "first token p50 ms"),
        (_ratio("tokens/s", "llama.cpp"), _over("first token p50 ms", "llama.cpp")),
    )


_CHUNK, _REQUEST = "CPU µs/chunk", "CPU µs/request"
_P50, _P99 = "transit p50 µs", "transit p99 µs"
_FIRST = "first token p50 ms"

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "request",
        "small non-streaming requests, 32 connections",
        _flags("--model bench-n200 --connections 32 --warmup 0.6 --seconds 2.5"),
        (*FRONT, "litellm"),
        (_REQUEST, "p50 ms", "requests/s"),
        (_ratio(_REQUEST),),
    ),
    Scenario(
        "paced",
        "200 streams of 50 chunks/s each, every chunk its own write: the shape of chat",
        _flags("--model bench-n200-d20 --connections 200 --stream --cut --ramp 0.5 --warmup 0.5 --seconds 4"),
        (*FRONT, *DURABLE, "translated", "litellm"),
        (_CHUNK, "store's CPU µs/chunk", _P50, _P99, "chunks/s"),
        (_ratio(_CHUNK), _over(_P50), _over(_P99)),
    ),
    Scenario(
        "burst",
        "200 chunks at once, 32 connections",
        _flags("--model bench-n200 --connections 32 --stream --warmup 0.6 --seconds 2.5"),
        (*FRONT, *DURABLE, "translated", "litellm"),
        (_CHUNK, "store's CPU µs/chunk", "chunks/s"),
        (_ratio(_CHUNK),),
    ),
    Scenario(
        "first-token",
        "streams of 8 chunks that begin at once, 8 connections: what a durable stream's first write delays",
        _flags("--model bench-n8-d5 --connections 8 --stream --warmup 0.6 --seconds 2.5"),
        (*FRONT, *DURABLE),
        (_FIRST, "first token p99 ms", _REQUEST),
        (_over(_FIRST), _over(_FIRST, "unbroken")),
    ),
    Scenario(
        "resume",
        "a finished durable stream of 1,000 chunks, read again from its beginning, one reader",
        _flags("--model bench-n1000 --get --connections 1 --stream --warmup 0.3 --seconds 2"),
        DURABLE,
        ("p50 ms", "p99 ms", _CHUNK),
        resumes="bench-n1000",
    ),
    Scenario(
        "idle",
        "1,000 open streams that wait",
        _flags("--model bench-n2-d60000 --connections 1000 --stream --cut --ramp 2 --warmup 2 --seconds 1"),
        ("nginx", "unbroken", "litellm"),
        ("KiB/stream", "streams open"),
        (_ratio("KiB/stream"),),
        is_fresh=True,
    ),
    Scenario(
        "many",
        f"{OPEN_STREAMS:,} streams open at once on one worker, a chunk every 5 s for 30 s, every answer checked",
        _flags(
            f"--model bench-n6-d5000 --connections {OPEN_STREAMS} --requests {OPEN_STREAMS} --stream"
            " --ramp 10 --warmup 1 --seconds 60"
        ),
        ("unbroken",),
        ("streams open", "right answers", "wrong answers", "KiB/stream", _P50, _P99),
        rounds_at_most=1,
        is_fresh=True,
    ),
    _engine(1),
    _engine(4),
    Scenario(
        "start",
        "from the start of the process to ready",
        (),
        ("unbroken", "engine"),
        ("seconds",),
        is_start=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to come to; `limit` and `stretch` are bounds from above, or from below."""

    meaning: str
    scenario: str
    target: str
    comparison: Comparison
    limit: float
    stretch: float | None = None
    is_least: bool = False

    def is_met(self, value: float, bound: float) -> bool:
        """Whether `value` keeps to the bound."""
        return value >= bound if self.is_least else value <= bound


GOALS: tuple[Goal, ...] = (
    Goal("CPU per paced chunk, plain, × nginx", "paced", "unbroken", _ratio(_CHUNK), 1.35, 1.2),
    Goal("CPU per paced chunk, durable in SQLite, × nginx", "paced", "sqlite", _ratio(_CHUNK), 2, 1.6),
    Goal("CPU per paced chunk, durable in Valkey, our share, × nginx", "paced", "valkey", _ratio(_CHUNK), 3, 2),
    Goal("CPU per paced chunk, translated, × nginx", "paced", "translated", _ratio(_CHUNK), 2, 1.6),
    Goal("CPU per small request, × nginx", "request", "unbroken", _ratio(_REQUEST), 4, 2.5),
    Goal("added latency per chunk, p50, µs over direct", "paced", "unbroken", _over(_P50), 60, 25),
    Goal("added latency per chunk, p99, µs over direct", "paced", "unbroken", _over(_P99), 1500),
    Goal("memory per idle open stream, KiB", "idle", "unbroken", Comparison("KiB/stream"), 20, 12),
    Goal(
        "streams open at once on one worker, all right",
        "many",
        "unbroken",
        Comparison("right answers"),
        WANTED_STREAMS,
        2 * WANTED_STREAMS,
        is_least=True,
    ),
    Goal("LiteLLM's CPU per paced chunk, × ours", "paced", "litellm", _ratio(_CHUNK, "unbroken"), 30, is_least=True),
    Goal(
        "LiteLLM's CPU per small request, × ours",
        "request",
        "litellm",
        _ratio(_REQUEST, "unbroken"),
        100,
        is_least=True,
    ),
    Goal(
        "tokens/s of the embedded engine, one stream, × llama.cpp's own server",
        "engine-1",
        "engine",
        _ratio("tokens/s", "llama.cpp"),
        0.98,
        1.0,
        is_least=True,
    ),
    Goal(
        "tokens/s of the embedded engine, four streams, × llama.cpp's own server",
        "engine-4",
        "engine",
        _ratio("tokens/s", "llama.cpp"),
        0.98,
        1.0,
        is_least=True,
    ),
    Goal("start to ready, without engine, s", "start", "unbroken", Comparison("seconds"), 0.7),
    Goal("start to ready, with the demo model, s", "start", "engine", Comparison("seconds"), 1.5),
)


def figure_of(result: dict[str, Any], figure: str) -> float | None:
    """One figure of one run; None where there is none."""
    transit, total, first = (result.get(name) or {} for name in ("transit_us", "total_ms", "ttft_ms"))
    grown = (result.get("rss_at_most_open_mib") or 0) - (result.get("rss_before_mib") or 0)
    streams = result.get("open_streams_at_most")
    values = {
        "CPU µs/request": result.get("cpu_us_per_request"),
        "CPU µs/chunk": result.get("cpu_us_per_chunk"),
        "store's CPU µs/chunk": result.get("beside_cpu_us_per_chunk"),
        "p50 ms": total.get("p50"),
        "p99 ms": total.get("p99"),
        "requests/s": result.get("requests_per_s"),
        "chunks/s": result.get("chunks_per_s"),
        "tokens/s": result.get("chunks_per_s"),
        "transit p50 µs": transit.get("p50"),
        "transit p99 µs": transit.get("p99"),
        "first token p50 ms": first.get("p50"),
        "first token p99 ms": first.get("p99"),
        "KiB/stream": grown * 1024 / streams if streams and grown > 0 else None,
        "streams open": streams,
        "right answers": result.get("completed_in_all"),
        "wrong answers": result.get("errors"),
        "seconds": result.get("start_s"),
    }
    return values[figure]
