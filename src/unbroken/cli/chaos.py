"""`unbroken chaos`."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from unbroken.cli.configured import fail

if TYPE_CHECKING:
    from unbroken.chaos.run import Outcome


def chaos(
    seed: Annotated[int, typer.Option(help="Decides what is done; the same seed does the same.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds of questions and disturbances.")] = 5,
    streams: Annotated[int, typer.Option(min=1, help="Questions in each round.")] = 12,
    gateways: Annotated[int, typer.Option(min=1, help="Gateways on the one store.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes of each gateway.")] = 1,
    store: Annotated[str, typer.Option(help="sqlite, valkey (started by us), or the URL of a server.")] = "sqlite",
    engine: Annotated[bool, typer.Option(help="Ask the demo model too, and kill its process.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Cut lines, kill gateways, break upstreams, and check that every answer arrives whole.

    All of it runs on this machine, on free ports of its own, and is gone afterwards.
    Exit code 1 means that a promise was broken; then the logs are kept.

    \b
    Examples:
      unbroken chaos
      unbroken chaos --seed 7 --rounds 20 --gateways 2 --engine
      unbroken chaos --store valkey --gateways 3 --workers 2
    """
    from unbroken.chaos.gateways import GatewayFailed
    from unbroken.chaos.plan import StoreKind, Wishes
    from unbroken.chaos.run import ended_by_sigterm, run
    from unbroken.chaos.stores import NoStore
    from unbroken.chaos.table import as_json as outcome_as_json
    from unbroken.chaos.table import command, table

    kinds = {kind.value: kind for kind in (StoreKind.SQLITE, StoreKind.VALKEY)}
    kind = kinds.get(store, StoreKind.FOREIGN)
    if kind is StoreKind.FOREIGN and "://" not in store:
        fail(f"--store {store}: expected sqlite, valkey, or a URL such as redis://127.0.0.1:6379/0")
    wishes = Wishes(seed, rounds, streams, gateways, workers, kind, engine)
    typer.echo(f"seed {seed}: {command(wishes, store)}", err=True)
    try:
        outcome = asyncio.run(ended_by_sigterm(run(wishes, lambda line: typer.echo(line, err=True), store)))
    except (NoStore, GatewayFailed) as error:
        fail("\n".join([str(error), *getattr(error, "__notes__", ())]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("Stopped; all that was started has ended.", err=True)
        raise typer.Exit(130) from None
    typer.echo(json.dumps(outcome_as_json(outcome), indent=2) if as_json else table(outcome))
    if outcome.breaches:
        _tell_of_breaches(outcome, command(wishes, store))
        raise typer.Exit(1)


def _tell_of_breaches(outcome: "Outcome", command: str) -> None:
    for breach in outcome.breaches:
        typer.echo(f"BREACH {breach}", err=True)
    typer.echo(f"The logs are in {outcome.folder}. Once more: {command}", err=True)
