"""`unbroken reload`."""

from typing import Annotated

import typer

from unbroken.cli.configured import fail


def reload_configuration(
    port: Annotated[int | None, typer.Option("--port", "-p", help="The gateway's port, where several run.")] = None,
) -> None:
    """Let a running gateway take its changed configuration; no stream is dropped.

    It says which changed settings need a restart; the log file is opened anew, too.
    The exit code is 1 where the configuration is broken: then nothing changes.
    `kill -HUP` does the same, and the log says how it went.

    \b
    Examples:
      unbroken reload
      unbroken reload --port 9000
    """
    from unbroken.gateway.running import reload, running_gateways

    running = running_gateways()
    if port is not None:
        running = [gateway for gateway in running if gateway.port == port]
    if not running:
        fail("no gateway of yours runs" + (f" at port {port}" if port else "") + ": start one with `unbroken serve`")
    if len(running) > 1:
        ports = ", ".join(str(gateway.port) for gateway in running)
        fail(f"several gateways run, at ports {ports}: say which with --port")
    gateway = running[0]
    which = f"the gateway at port {gateway.port} (process {gateway.pid})"
    verdict = reload(gateway)
    if verdict is None:
        fail(f"{which} has not said whether it took its configuration: see its log")
    if not verdict.is_taken:
        fail(f"{which} goes on with the configuration that it has: {verdict.said}")
    typer.echo(f"T{which[1:]} has taken its configuration.")
    if verdict.said:
        typer.echo(verdict.said, err=True)
