"""`unbroken chat`: talk to a model."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unbroken.cli.configured import ConfigOption, settings_from, settings_must_be_valid
from unbroken.cli.servers import (
    ApiKeyOption,
    BaseUrlOption,
    server_that_is_named,
    server_that_is_there,
    server_that_runs,
)

if TYPE_CHECKING:
    from unbroken.client.server import Server
    from unbroken.client.start import ChatOptions
    from unbroken.settings.tree import Settings

MAX_PIPED_BYTES = 8 << 20  # far above any model's context
STARTING = "starting a gateway…"
INTERRUPTED = 130
BROKEN_PIPE = 141  # as if SIGPIPE had ended us


def chat(
    prompt: Annotated[str | None, typer.Argument(help="The question; without one, an interactive chat.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Default: the first that the server lists; `unbroken models` lists them."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="How the model shall answer.")] = None,
    base_url: BaseUrlOption = None,
    api_key: ApiKeyOption = None,
    config: ConfigOption = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: always the likeliest word.")] = None,
    attach: Annotated[
        str | None, typer.Option(metavar="ID", help="Show a durable stream instead, from its beginning to its end.")
    ] = None,
    stats: Annotated[
        bool | None, typer.Option("--stats/--no-stats", help="Tokens and speed. Default: on a terminal.")
    ] = None,
) -> None:
    """Talk to a model: one question and its answer, or, without a question, an interactive chat.

    It talks to the gateway that runs on this machine.
    Where none runs it has one of its own, with the same configuration.

    Examples:

        unbroken chat

        unbroken chat "Explain SSE"

        cat report.txt | unbroken chat "Summarise this" > summary.md

        unbroken chat --system "Answer in French." "Good morning!"

        unbroken chat --attach chatcmpl-0123456789abcdef

        unbroken chat --config unbroken.toml --model fast "Hello"

        unbroken chat --base-url http://127.0.0.1:11434/v1 --model llama3.2
    """
    from unbroken.client.api import Sampling
    from unbroken.client.failure import ChatFailed
    from unbroken.client.start import ChatOptions

    if attach and prompt is not None:
        raise typer.BadParameter("--attach shows an answer that has been asked for", param_hint="PROMPT")
    question = None if attach else _question(prompt)
    options = ChatOptions(question, model, system, Sampling(max_tokens, temperature), stats, attach)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may not have the model's letters
    try:
        with settings_must_be_valid():
            code = asyncio.run(_run(base_url, api_key, config, options))
    except ChatFailed as failed:
        print(f"unbroken: {failed}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whatever else is written at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    raise typer.Exit(code)


def _question(prompt: str | None) -> str | None:
    """The prompt with what is piped in; None where the chat is to be interactive."""
    from unbroken.client.one_shot import joined_prompt

    if sys.stdin is None or sys.stdin.isatty():
        if prompt is None and not sys.stdout.isatty():
            raise typer.BadParameter("an interactive chat needs a terminal: give a question", param_hint="PROMPT")
        piped = ""
    else:
        read = sys.stdin.buffer.read(MAX_PIPED_BYTES + 1)
        if len(read) > MAX_PIPED_BYTES:
            raise typer.BadParameter(f"what is piped in is larger than {MAX_PIPED_BYTES >> 20} MiB")
        piped = read.decode(errors="replace")
    if prompt is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    question = joined_prompt([prompt, piped])
    if not question:
        raise typer.BadParameter("there is no question: it is empty", param_hint="PROMPT")
    return question


async def _run(base_url: str | None, api_key: str | None, config: Path | None, options: "ChatOptions") -> int:
    from unbroken.client.start import Surroundings, chat_with

    async with AsyncExitStack() as stack:
        if options.attach:
            server = await server_that_is_there(base_url, api_key, config)
        else:
            server = await _server(base_url, api_key, config, stack)
        return await chat_with(server, options, Surroundings(sys.stdout, sys.stderr, os.environ))


async def _server(base_url: str | None, api_key: str | None, config: Path | None, stack: AsyncExitStack) -> "Server":
    """The server that was named, or runs here, or one of our own that lasts as long as the stack."""
    if named := server_that_is_named(base_url, api_key, config):
        return named
    if running := await server_that_runs(api_key, config):
        return running
    settings = settings_from(config)
    is_terminal = sys.stderr.isatty()
    if is_terminal:
        print(STARTING, end="", file=sys.stderr, flush=True)
    try:
        return await _own_server(settings, stack)
    finally:
        if is_terminal:
            print("\r" + " " * len(STARTING) + "\r", end="", file=sys.stderr, flush=True)


async def _own_server(settings: "Settings", stack: AsyncExitStack) -> "Server":
    from unbroken.chat.fault import Fault
    from unbroken.client.failure import ChatFailed
    from unbroken.client.server import Server
    from unbroken.gateway.background import background_server
    from unbroken.gateway.discover import with_found_upstreams
    from unbroken.settings.read import SettingsInvalid

    try:
        settings = await with_found_upstreams(settings, os.environ)
        url = await stack.enter_async_context(background_server(settings))
    except (SettingsInvalid, OSError) as error:
        raise ChatFailed(f"No server runs here, and one of our own does not start: {error}", Fault.INTERNAL) from error
    return Server(url, next(iter(settings.keys.values()), None))
