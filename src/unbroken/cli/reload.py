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
        running = {at: pid for at, pid in running.items() if at == port}
    if not running:
        fail("no gateway of yours runs" + (f" at port {port}" if port else "") + ": start one with `unbroken serve`")
    if len(running) > 1:
        fail(f"several gateways run, at ports {', '.join(map(str, sorted(running)))}: say which with --port")
    for at, pid in running.items():
        os.kill(pid, signal.SIGHUP)
        typer.echo(f"The gateway at port {at} (process {pid}) reads its configuration anew; its log says how it went.")
