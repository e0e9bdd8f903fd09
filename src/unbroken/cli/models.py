"""`unbroken models`."""

import asyncio
import os

import typer

from unbroken.cli.configured import ConfigOption, fail, settings_from, settings_must_be_valid
from unbroken.cli.servers import ApiKeyOption, BaseUrlOption, server_that_is_named


def models(
    config: ConfigOption = None,
    base_url: BaseUrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List the models that can be asked for: those of the configuration, or of the server that is named.

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
        if named := server_that_is_named(base_url, api_key, config):
            return await list_models(named.base_url, named.api_key)
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
