"""A chat from its options to its exit code."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

from unbroken.client.api import ChatApi, Sampling
from unbroken.client.attach import show_stream
from unbroken.client.failure import ChatFailed
from unbroken.client.history import history_path
from unbroken.client.measure import Clock
from unbroken.client.models import Model
from unbroken.client.one_shot import FAILED, answer_once
from unbroken.client.opening import choosing, default_model, detailed
from unbroken.client.server import Server
from unbroken.client.session import ChatSession
from unbroken.client.surface import open_surface


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What was asked for on the command line; no question means an interactive chat."""

    question: str | None = None
    model: str | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    #: Whether to tell of tokens and speed; None: on a terminal.
    stats: bool | None = None
    #: The stream to show instead of asking anything.
    attach: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a chat finds around it."""

    output: TextIO
    errors: TextIO
    environment: Mapping[str, str]
    clock: Clock = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now().astimezone()


async def chat_with(server: Server, options: ChatOptions, around: Surroundings) -> int:
    """Chat with that server; gives the exit code."""
    output = open_surface(around.output, around.errors, around.environment)
    aside = open_surface(around.errors, around.errors, around.environment)
    stats = around.output.isatty() if options.stats is None else options.stats
    try:
        async with ChatApi(server.base_url, server.api_key) as api:
            if options.attach:
                return await show_stream(api, options.attach, output, aside)
            if options.question is None:
                await _talk(api, options, around, stats=stats)
                return 0
            models = [] if options.model else await api.models()
            model = Model(options.model) if options.model else default_model(models, api.base_url)
            session, remark = _session(api, model, options, around), choosing(models, "--model")
            return await answer_once(session, options.question, output, aside, stats=stats, remark=remark)
    except ChatFailed as failed:
        aside.complain(str(failed))
        return FAILED


async def _talk(api: ChatApi, options: ChatOptions, around: Surroundings, *, stats: bool) -> None:
    from unbroken.client.actions import Actions  # what only an interactive chat needs takes long to import
    from unbroken.client.prompt import LinePrompt
    from unbroken.client.terminal import TerminalChat

    surface = open_surface(around.output, around.output, around.environment)
    models = [] if options.model else await api.models()
    model = Model(options.model) if options.model else default_model(models, api.base_url)
    session = _session(api, await detailed(api, model), options, around)
    actions = Actions(session, api, models, surface, lambda: f"chat-{around.now():%Y-%m-%d-%H%M%S}.md")
    said = [f"{model.name} at {api.base_url} · /help · Ctrl-D leaves", choosing(models, "/model")]
    surface.say("\n".join(filter(None, said)) + "\n")
    prompt = LinePrompt(history_path(around.environment), actions.model_names)
    await TerminalChat(session, actions, prompt, surface, stats=stats).run()


def _session(api: ChatApi, model: Model, options: ChatOptions, around: Surroundings) -> ChatSession:
    session = ChatSession(api, model, clock=around.clock, sampling=options.sampling)
    session.conversation = session.conversation.with_system(options.system)
    return session
