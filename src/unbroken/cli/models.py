"""`unbroken models`."""

import asyncio
import os
from typing import Annotated

import typer

from unbroken.cli.configured import ConfigOption, fail, settings_from, settings_must_be_valid


def models(
    config: ConfigOption = None,
    base_url: Annotated[
        str | None, typer.Option(envvar=["UNBROKEN_BASE_URL"], help="Ask this server instead of the configuration.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar=["UNBROKEN_API_KEY", "OPENAI_API_KEY"], help="Its key.")] = None,
) -> None:
    """List the models that can be asked for.

    \b
    Examples:
      unbroken models
      unbroken models --config unbroken.toml
      unbroken models --base-url http://127.0.0.1:8080/v1
    """
    from unbroken.client.listing import list_models
    from unbroken.gateway.background import background_server
    from unbroken.gateway.discover import with_found_upstreams

    async def run() -> list[str]:
        if base_url:
            return await list_models(base_url, api_key)
        settings = await with_found_upstreams(settings_from(config), os.environ)
        async with background_server(settings) as url:
            return await list_models(url, next(iter(settings.keys.values()), None))

    try:
        with settings_must_be_valid():
            names = asyncio.run(run())
    except OSError as error:
        fail(str(error))
    for name in names:
        typer.echo(name)
    if not names:
        fail("no models: `unbroken doctor` says why")
