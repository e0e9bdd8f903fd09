"""`unbroken serve`."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unbroken.cli.configured import (
    ConfigOption,
    configuration_file,
    settings_from,
    settings_must_be_valid,
    strange_variables,
)
from unbroken.settings.tree import Settings

MAX_NAMES = 5  # of an upstream's models, or of keys, shown at the start


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond loopback a key is needed.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port, 8080 by default; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Processes that serve, 1 by default; one for each core.")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="A GGUF file to run.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, human or json.")] = None,
    log_file: Annotated[str | None, typer.Option(help="File for the log, in place of standard error.")] = None,
) -> None:
    """Serve the gateway.

    Without a configuration it finds OpenAI by OPENAI_API_KEY and Anthropic by ANTHROPIC_API_KEY.
    It finds an Ollama on this machine, too, and has its own demo model.
    The first Ctrl-C or SIGTERM lets running answers finish, the second ends them; SIGHUP reads the configuration anew.

    \b
    Examples:
      unbroken serve
      unbroken serve --port 9000 --model models/qwen3-4b.gguf
      unbroken serve --config unbroken.toml --workers 4
      UNBROKEN_KEYS_APP=a-key-of-yours unbroken serve --host 0.0.0.0

    \b
    Then, in the application:
      OPENAI_BASE_URL=http://127.0.0.1:8080/v1
    """
    flags: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port, "workers": workers},
        "log": {"format": log_format, "file": log_file},
    }
    with settings_must_be_valid():
        forced_by = _run(config, flags, model)
    if forced_by:
        raise typer.Exit(128 + forced_by)


def _run(config: Path | None, flags: dict[str, dict[str, Any]], model: Path | None) -> int:
    import uvloop

    from unbroken.gateway.discover import with_found_upstreams
    from unbroken.gateway.listening import check_address
    from unbroken.gateway.running import remembered

    async def read() -> Settings:
        settings = settings_from(config, flags)
        check_address(settings)
        return await with_found_upstreams(settings, os.environ, model)

    async def run() -> int:
        settings = await read()
        for stranger in strange_variables(config):
            typer.secho(f"unbroken: {stranger}", fg=typer.colors.YELLOW, err=True)
        with remembered(configuration_file(config)) as remembrance:

            def announce(settings: Settings, port: int) -> None:
                remembrance.note(settings.server.host, port)
                _announce(settings, port)

            return await _server(settings)(
                settings, read_again=read, announce=announce, on_reloaded=remembrance.reloaded
            )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def _server(settings: Settings) -> Callable[..., Awaitable[int]]:
    """What serves these settings: this very process, or several under its supervision."""
    if settings.server.workers > 1:
        from unbroken.gateway.supervisor import supervise

        return supervise
    from unbroken.gateway.serve import serve

    return serve


def _announce(settings: Settings, port: int) -> None:
    from unbroken.gateway.running import root_of

    host = settings.server.host
    shown = f"[{host}]" if ":" in host else host
    typer.secho(f"Unbroken serves at http://{shown}:{port}/v1", bold=True, err=True)
    for upstream in settings.upstream:
        what = f"runs {upstream.path}" if upstream.engine else upstream.base_url
        names = _few(upstream.models) or "whatever it lists"
        typer.echo(f"  {upstream.name}: {names}  ({what})", err=True)
    if settings.keys:
        typer.echo(f"  A key is asked for: that named {_few([*settings.keys])}, where KEY stands below.", err=True)
    else:
        typer.echo("  No key is asked for, so only this machine is served.", err=True)
    here = f"{root_of(host, port)}/v1"
    key = "KEY" if settings.keys else "none"
    typer.echo("Try it:", err=True)
    typer.echo(f"  OPENAI_BASE_URL={here} OPENAI_API_KEY={key}  in your application, or", err=True)
    elsewhere = "" if port == 8080 else f" --base-url {here}"
    with_key = "UNBROKEN_API_KEY=KEY " if settings.keys else ""
    typer.echo(f'  {with_key}unbroken chat{elsewhere} "Hello"', err=True)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
