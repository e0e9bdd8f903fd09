"""`unbroken reload`."""

import os
import signal
from typing import Annotated

import typer

from unbroken.cli.configured import fail


def reload(
    port: Annotated[int | None, typer.Option("--port", "-p", help="The gateway's port, where several run.")] = None,
) -> None:
    """Let a running gateway take its changed configuration; no stream is dropped.

    The log file is opened anew, too. Host and port need a restart. `kill -HUP` does the same.

    \b
    Examples:
      unbroken reload
      unbroken reload --port 9000
    """
    from unbroken.gateway.running import running_gateways

    running = running_gateways()
    if port is not None:
        running = [gateway for gateway in running if gateway.port == port]
    if not running:
        fail("no gateway of yours runs" + (f" at port {port}" if port else "") + ": start one with `unbroken serve`")
    if len(running) > 1:
        ports = ", ".join(str(gateway.port) for gateway in running)
        fail(f"several gateways run, at ports {ports}: say which with --port")
    for gateway in running:
        os.kill(gateway.pid, signal.SIGHUP)
        said = f"The gateway at port {gateway.port} (process {gateway.pid}) reads its configuration anew;"
        typer.echo(f"{said} its log says how it went.")
