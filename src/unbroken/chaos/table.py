"""The outcome of a run as a table, or as JSON."""

import shlex
from typing import Any

from unbroken.chaos.plan import StoreKind, Wishes
from unbroken.chaos.run import Outcome


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """The table's rows: what, and how much of it."""
    figures, done = outcome.figures, outcome.disturbances
    kills = sum(done[name] for name in ("KillGateway", "KillWorker", "KillEngine", "KillStore"))
    return [
        ("rounds", f"{outcome.rounds} in {outcome.seconds:.0f} s"),
        ("streams", f"{figures.streams}"),
        ("  finished", f"{figures.finished}"),
        ("  cancelled by their reader", f"{figures.cancelled}"),
        ("  failed, and said so", f"{figures.failed}"),
        ("lines", f"{outcome.lines}"),
        ("  cut", f"{outcome.cuts}"),
        ("upstream faults", f"{outcome.upstream_faults}"),
        ("kills", f"{kills}"),
        *((f"  {name}", f"{count}") for name, count in sorted(done.items())),
        ("clients' returns", f"{figures.returns}"),
        ("takeovers", f"{figures.takeovers}"),
        ("continuations", f"{figures.continued}"),
        ("blocks", f"{figures.blocks}"),
        ("tokens", f"{figures.tokens}"),
        ("lost", f"{figures.lost}"),
        ("doubled", f"{figures.doubled}"),
        ("breaches", f"{len(outcome.breaches)}"),
    ]


def table(outcome: Outcome) -> str:
    """The table as text."""
    found = rows(outcome)
    width = max(len(name) for name, _ in found) + 2
    lines = [f"{name:<{width}}{value:>12}" for name, value in found]
    lines += [f"error told {count} times: {error}" for error, count in outcome.errors.most_common()]
    return "\n".join(lines)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "seed": outcome.wishes.seed,
        **{name.strip(): int(value) if value.isdigit() else value for name, value in rows(outcome)},
        "errors": dict(outcome.errors),
        "breach_list": [str(breach) for breach in outcome.breaches],
        "folder": str(outcome.folder) if outcome.folder else None,
        "command": command(outcome.wishes),
    }


def command(wishes: Wishes, store_url: str = "") -> str:
    """What repeats the run."""
    store = store_url if wishes.store is StoreKind.FOREIGN else wishes.store.value
    words = ["unbroken", "chaos", "--seed", wishes.seed, "--rounds", wishes.rounds, "--streams", wishes.streams]
    words += ["--gateways", wishes.gateways, "--workers", wishes.workers, "--store", store]
    words += ["--engine"] if wishes.has_engine else ["--no-engine"]
    return shlex.join(map(str, words))
