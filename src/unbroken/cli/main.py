"""`unbroken`: the command line."""

import typer

from unbroken import __version__
from unbroken.cli.chaos import chaos
from unbroken.cli.chat import chat
from unbroken.cli.doctor import doctor
from unbroken.cli.models import models
from unbroken.cli.reload import reload_configuration
from unbroken.cli.serve import serve
from unbroken.cli.streams import streams

HELP = """A streaming chat gateway whose answers, once begun, arrive whole.

\b
First steps:
  unbroken chat "Hello"    an answer from the demo model, no key needed
  unbroken serve           the gateway, at http://127.0.0.1:8080/v1
  unbroken doctor          what is configured, what is reachable, what to do
"""

app = typer.Typer(
    name="unbroken",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(chat)
app.command()(models)
app.command()(doctor)
app.command("reload")(reload_configuration)
app.command()(streams)
app.command()(chaos)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unbroken {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """What stands before the command."""


def main() -> None:
    """Runs the command line."""
    app(prog_name="unbroken")
