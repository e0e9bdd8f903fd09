"""`unbroken serve`."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from unbroken.cli.configured import ConfigOption, fail, settings_from
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond loopback a key is needed.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port; 0 takes a free one.")] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="A GGUF file to run.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, human or json.")] = None,
) -> None:
    """Serve the gateway.

    Without a configuration it finds OpenAI by OPENAI_API_KEY, an Ollama on this machine, and its own demo model.

    Examples:

        unbroken serve

        unbroken serve --port 9000 --model models/qwen3-4b.gguf

        unbroken serve --config unbroken.toml

        UNBROKEN_KEYS_APP=… unbroken serve --host 0.0.0.0

    Then, in the application: OPENAI_BASE_URL=http://127.0.0.1:8080/v1
    """
    flags: dict[str, dict[str, Any]] = {"server": {"host": host, "port": port}, "log": {"format": log_format}}
    try:
        _run(config, flags, model)
    except SettingsInvalid as error:
        fail(str(error))


def _run(config: Path | None, flags: dict[str, dict[str, Any]], model: Path | None) -> None:
    import uvloop

    from unbroken.gateway.discover import with_found_upstreams
    from unbroken.gateway.running import remembered
    from unbroken.gateway.serve import serve as serve_gateway

    def read() -> Settings:
        return settings_from(config, flags)

    async def run() -> None:
        settings = await with_found_upstreams(read(), os.environ, model)
        with remembered() as announce:
            await serve_gateway(
                settings,
                read_again=lambda: with_found_upstreams(read(), os.environ, model),
                announce=lambda gateway, port: _announce(gateway.settings, port, announce),
            )

    loop = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with loop as runner:
        runner.run(run())


def _announce(settings: Settings, port: int, remember: Any) -> None:
    remember(port)
    host = settings.server.host
    shown = f"[{host}]" if ":" in host else host
    typer.secho(f"Unbroken serves at http://{shown}:{port}/v1", bold=True, err=True)
    for upstream in settings.upstream:
        what = upstream.path if upstream.engine else upstream.base_url
        names = ", ".join(upstream.models) or "whatever it lists"
        typer.echo(f"  {upstream.name:<10} {what}  →  {names}", err=True)
    if not settings.keys:
        typer.echo("  no key is asked for, so only this machine is served", err=True)
    typer.echo(f"Try it: OPENAI_BASE_URL=http://{shown}:{port}/v1 OPENAI_API_KEY=none  or  unbroken chat", err=True)
