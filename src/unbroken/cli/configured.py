"""Flags that several commands share, and the settings that come of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The settings of file, environment and flags.

    Raises:
        SettingsInvalid: something is wrong with them.
    """
    return read_settings(configuration_file(config), os.environ, flags)


def configuration_file(config: Path | None) -> Path | None:
    """The file that was named, else the one that is here, if there is one."""
    return config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def strange_variables(config: Path | None) -> list[str]:
    """A sentence for each variable of the environment that looks like ours and changes nothing."""
    from unbroken.settings.strangers import strangers

    file = configuration_file(config)
    return list(strangers(os.environ, file.read_text("utf-8", errors="replace") if file else ""))


@contextmanager
def settings_must_be_valid() -> Iterator[None]:
    """What is wrong with the settings ends the command with a message."""
    try:
        yield
    except SettingsInvalid as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the command with a message on standard error."""
    typer.secho(f"unbroken: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
