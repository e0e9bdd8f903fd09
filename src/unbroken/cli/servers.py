"""Which server a command asks: one that is named, or one that runs here."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unbroken.client.server import Server

BaseUrlOption = Annotated[
    str | None, typer.Option(help="Any OpenAI-compatible server. [env: UNBROKEN_BASE_URL, OPENAI_BASE_URL]")
]
ApiKeyOption = Annotated[
    str | None, typer.Option(help="Better in the environment. [env: UNBROKEN_API_KEY, OPENAI_API_KEY]")
]


def server_that_is_named(base_url: str | None, api_key: str | None, config: Path | None) -> "Server | None":
    """The server that an option names, or the environment; `--config` goes before the environment."""
    from unbroken.client.server import named_server

    return None if config and not base_url else named_server(base_url, api_key, os.environ)


async def server_that_runs(api_key: str | None, config: Path | None) -> "Server | None":
    """The gateway of the configuration that runs on this machine.

    Raises:
        ChatFailed: several run, and it is not clear which is meant.
        SettingsInvalid: something is wrong with the configuration, and none runs by it.
    """
    from unbroken.cli.configured import configuration_file, settings_from
    from unbroken.client.server import Server, find_local_server, local_key
    from unbroken.gateway.running import places_of
    from unbroken.settings.read import SettingsInvalid

    file = configuration_file(config)
    try:
        places = places_of(settings_from(config).server, file)
    except SettingsInvalid:
        # A gateway that runs by this file may well know what is missing here: the variables that hold its secrets.
        _, others = places_of(None, file)
        if not (found := await find_local_server(None, others)):
            raise
    else:
        found = await find_local_server(*places)
    return Server(found, local_key(api_key, os.environ)) if found else None


async def server_that_is_there(base_url: str | None, api_key: str | None, config: Path | None) -> "Server":
    """The one that is named, else the one that runs here.

    Raises:
        ChatFailed: there is none.
        SettingsInvalid: something is wrong with the configuration, and none runs by it.
    """
    from unbroken.chat.fault import Fault
    from unbroken.client.failure import ChatFailed

    if named := server_that_is_named(base_url, api_key, config):
        return named
    if running := await server_that_runs(api_key, config):
        return running
    raise ChatFailed("No server runs here: name one with --base-url, or start `unbroken serve`.", Fault.CONNECT)
