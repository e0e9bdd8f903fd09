"""`unbroken streams`: the durable streams that are going on."""

import asyncio
import time

import typer

from unbroken.cli.configured import ConfigOption, fail, settings_must_be_valid
from unbroken.cli.servers import ApiKeyOption, BaseUrlOption, server_that_is_there


def streams(
    base_url: BaseUrlOption = None,
    api_key: ApiKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """List the durable streams of your key that are going on; `unbroken chat --attach ID` shows one.

    \b
    Examples:
      unbroken streams
      unbroken streams --base-url http://127.0.0.1:8080/v1
    """
    from unbroken.client.api import ChatApi
    from unbroken.client.failure import ChatFailed
    from unbroken.client.stream_list import stream_table

    async def run() -> str:
        server = await server_that_is_there(base_url, api_key, config)
        async with ChatApi(server.base_url, server.api_key) as api:
            live = await api.streams()
        return stream_table(live, time.time()) if live else ""

    try:
        with settings_must_be_valid():
            table = asyncio.run(run())
    except ChatFailed as failed:
        fail(str(failed))
    typer.echo(table or "No streams are going on.", err=not table)
