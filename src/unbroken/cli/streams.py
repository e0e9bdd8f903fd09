"""`unbroken streams`: the durable streams that are going on."""

import asyncio
import os
import time
from typing import Annotated

import typer

from unbroken.cli.configured import fail


def streams(
    base_url: Annotated[str | None, typer.Option(help="The server. [env: UNBROKEN_BASE_URL, OPENAI_BASE_URL]")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Better in the environment. [env: UNBROKEN_API_KEY, OPENAI_API_KEY]")
    ] = None,
) -> None:
    """List the durable streams of your key that are going on; `unbroken chat --attach ID` shows one.

    \b
    Examples:
      unbroken streams
      unbroken streams --base-url http://127.0.0.1:8080/v1
    """
    from unbroken.client.api import ChatApi
    from unbroken.client.failure import ChatFailed
    from unbroken.client.server import running_server
    from unbroken.client.stream_list import stream_table

    async def run() -> str:
        server = await running_server(base_url, api_key, os.environ)
        async with ChatApi(server.base_url, server.api_key) as api:
            live = await api.streams()
        return stream_table(live, time.time()) if live else ""

    try:
        table = asyncio.run(run())
    except ChatFailed as failed:
        fail(str(failed))
    typer.echo(table or "No streams are going on.", err=not table)
