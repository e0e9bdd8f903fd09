"""`unbroken doctor`."""

import asyncio
import os

import typer

from unbroken.cli.configured import ConfigOption, settings_from, settings_must_be_valid, strange_variables

_MARKS = {True: ("✓", typer.colors.GREEN), False: ("✗", typer.colors.RED)}


def doctor(config: ConfigOption = None) -> None:
    """Check the configuration, the upstreams and the model files, and say what to do.

    Nothing is generated and nothing is paid for. The exit code is 1 if something is wrong.

    \b
    Examples:
      unbroken doctor
      unbroken doctor --config unbroken.toml
    """
    import uvloop

    from unbroken.gateway.checkup import examine
    from unbroken.gateway.discover import with_found_upstreams

    async def run() -> bool:
        well = True
        settings = await with_found_upstreams(settings_from(config), os.environ)
        async for finding in examine(settings, strange_variables(config)):
            mark, color = _MARKS[finding.is_well]
            typer.secho(f"{mark} {finding.what}", fg=color, nl=False)
            typer.echo(f"  {finding.found}")
            if finding.advice:
                typer.echo(f"    → {finding.advice}")
            well &= finding.is_well
        return well

    # The loop that serves: its errors have the words that the log will have.
    with settings_must_be_valid(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(run()):
            raise typer.Exit(1)
