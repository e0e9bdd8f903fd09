"""Flags that several commands share, and the settings that come of them."""

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from unbroken.settings.read import SettingsInvalid, read_settings
from unbroken.settings.tree import Settings

DEFAULT_FILE = Path("unbroken.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; without it `unbroken.toml` here, if there is one."),
]


def settings_from(config: Path | None, flags: dict[str, dict[str, Any]] | None = None) -> Settings:
    """The settings of file, environment and flags; what is wrong with them ends the command with a message."""
    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    try:
        return read_settings(file, os.environ, flags)
    except SettingsInvalid as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the command with a message on standard error."""
    typer.secho(f"unbroken: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
