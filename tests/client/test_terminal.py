"""The interactive chat: lines in, answers out, commands, and Ctrl-C."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tests.client.fake_terminal import FakeTerminal
from unbroken.client.actions import Actions
from unbroken.client.api import ChatApi
from unbroken.client.history import MAX_HISTORY_BYTES, history_path, prepare_history
from unbroken.client.models import Model
from unbroken.client.prompt import CommandCompleter, Interrupted, LinePrompt
from unbroken.client.session import ChatSession
from unbroken.client.surface import open_surface
from unbroken.client.terminal import TerminalChat
from unbroken.client.terminal_view import WAITING
from unbroken.upstream.scripted import Answer, Gate, Received, ScriptedUpstream, body, error_event, hold_after, text

pytestmark = pytest.mark.anyio
Line = str | type[EOFError] | Interrupted


class TypedLines:
    """Lines as if they were typed; leaves after the last."""

    def __init__(self, *lines: Line) -> None:
        self._lines = iter(lines)

    async def read(self) -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


class Chat:
    def __init__(self, api: ChatApi, folder: Path) -> None:
        self.terminal = FakeTerminal(100, 200)
        self.session = ChatSession(api, Model("small"), clock=lambda: 0.0)
        self.surface = open_surface(self.terminal, self.terminal, {"TERM": "xterm"})
        models = [Model("small")]
        self.actions = Actions(self.session, api, models, self.surface, lambda: str(folder / "chat.md"))

    async def type(self, *lines: Line) -> str:
        """What the terminal shows after these lines."""
        chat = TerminalChat(self.session, self.actions, TypedLines(*lines), self.surface, stats=True)
        await chat.run()
        return self.terminal.text


@pytest.fixture
def chat(api: ChatApi, tmp_path: Path) -> Chat:
    return Chat(api, tmp_path)


async def test_a_question_is_answered_with_a_line_of_stats(chat: Chat) -> None:
    assert await chat.type("Hello") == "one two three\n3 tokens · first token 0.00 s · small"


async def test_it_is_said_to_wait_until_the_first_text(chat: Chat, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two") | hold_after(1, gate))
    typing = asyncio.create_task(chat.type("Hello"))
    await gate.wait_until_reached()
    await chat.terminal.wait_for(WAITING)
    assert chat.terminal.text == WAITING
    gate.open()
    assert await typing == "one two\n2 tokens · first token 0.00 s · small"


async def test_nothing_of_the_waiting_stays(chat: Chat, upstream: ScriptedUpstream) -> None:
    chat.session.use(Model("small", 110))
    upstream.script(text("y" * 200, usage=False), text("one", reasoning="hm"), text("") | error_event("no", after=1))
    shown = await chat.type("a" * 200, "b" * 200, "c")
    assert "no longer sent" in shown
    assert "hm\n\none" in shown
    assert "broke off" in shown
    assert WAITING not in shown
    upstream.script(text("one") | hold_after(1, Gate()))
    typing = asyncio.create_task(chat.type("/new", "d"))
    await chat.terminal.wait_for(WAITING)
    os.kill(os.getpid(), signal.SIGINT)
    shown = await typing
    assert WAITING not in shown
    assert "Stopped" in shown


async def test_the_model_can_be_changed(chat: Chat, upstream: ScriptedUpstream) -> None:
    shown = await chat.type("/model", "/model larg", "/model large", "Hello")
    assert "* small\n  large" in shown
    assert 'There is no model "larg". There are: small, large.' in shown
    assert "large answers from here on." in shown
    assert upstream.requests[-1].json()["model"] == "large"


async def test_a_chosen_model_has_its_own_context(chat: Chat, upstream: ScriptedUpstream) -> None:
    def tell(request: Received) -> Answer | None:
        return body(b'{"id":"large","max_model_len":40}') if request.path == "/v1/models/large" else None

    upstream.answer_with(tell)
    assert "no longer sent" not in await chat.type("a" * 400, "b" * 400)
    assert "The oldest 2 turns are no longer sent" in await chat.type("/model large", "c")


async def test_the_system_prompt_can_be_set_and_taken_away(chat: Chat, upstream: ScriptedUpstream) -> None:
    await chat.type("/system Be brief.", "Hello", "/new", "Again", "/system none", "More")
    firsts = [request.json()["messages"][0]["content"] for request in upstream.requests]
    assert firsts == ["Be brief.", "Be brief.", "Again"]


async def test_a_new_conversation_knows_nothing_of_the_old(chat: Chat, upstream: ScriptedUpstream) -> None:
    await chat.type("Hello", "/new", "Again")
    assert [message["content"] for message in upstream.requests[-1].json()["messages"]] == ["Again"]


async def test_a_question_can_be_asked_again(chat: Chat, upstream: ScriptedUpstream) -> None:
    upstream.script(text("first"), text("second"))
    shown = await chat.type("/retry", "Hello", "/retry")
    assert "There is no question yet" in shown
    assert upstream.requests[0].json() == upstream.requests[1].json()
    assert [turn.answer and turn.answer.text for turn in chat.session.conversation.turns] == ["second"]


async def test_an_unknown_command_suggests_and_asks_nobody(chat: Chat, upstream: ScriptedUpstream) -> None:
    assert "There is no command /hlep. Did you mean /help?" in await chat.type("/hlep")
    assert upstream.requests == []


async def test_a_conversation_is_saved_and_loaded(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "a chat.json"
    await chat.type("Hello", f"/save {file}", "/save", "/save", "/save /nowhere/x")
    saved = chat.session.conversation
    shown = await chat.type("/new", f"/load {file}", "/load", "/load /nowhere", f"/load {tmp_path / 'chat.md'}")
    shown = " ".join(shown.split())
    assert chat.session.conversation == saved
    assert "Loaded 1 turn from" in shown
    assert (tmp_path / "chat.md").read_text().startswith("## You\n\nHello\n\n## small")
    assert shown.count("is there already: /save FILE with another name, or /save! FILE") == 1  # also without a name
    assert "/nowhere/x cannot be written: No such file or directory." in shown
    assert "/nowhere cannot be read" in shown
    assert "cannot be loaded: not a saved conversation" in shown


async def test_only_what_this_chat_wrote_is_written_over(chat: Chat, tmp_path: Path) -> None:
    file, new = tmp_path / "notes.md", tmp_path / "new.md"
    file.write_text("precious")
    shown = await chat.type("Hello", f"/save {file}", f"/save {new}", "More", f"/save {new}")
    assert file.read_text() == "precious"
    assert " ".join(shown.split()).count("is there already") == 1
    assert new.read_text().count("## You") == 2
    await chat.type(f"/save! {file}", "Still more", f"/save {file}")
    assert file.read_text().count("## You") == 3
    assert "Say which file" in await chat.type("/save!")


async def test_a_failure_is_said_and_the_chat_goes_on(chat: Chat, upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    shown = await chat.type("Hello", "/help")
    assert "Nothing answers at" in shown
    assert "/retry" in shown


async def test_ctrl_c_stops_the_answer_keeps_it_and_once_more_leaves(chat: Chat, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two") | hold_after(2, gate))
    typing = asyncio.create_task(chat.type("Hello", Interrupted(had_text=False), "never asked"))
    await gate.wait_until_reached()
    await chat.terminal.wait_for("one")
    os.kill(os.getpid(), signal.SIGINT)
    shown = await typing
    await upstream.wait_until_left()
    assert shown.startswith("one\nStopped; /retry asks again")
    assert [turn.answer and turn.answer.is_whole for turn in chat.session.conversation.turns] == [False]
    assert len(upstream.requests) == 1


async def test_ctrl_c_clears_what_was_typed_and_twice_leaves(chat: Chat, upstream: ScriptedUpstream) -> None:
    cleared, empty = Interrupted(had_text=True), Interrupted(had_text=False)
    await chat.type(cleared, cleared, "asked", empty, empty, "never asked")
    assert [request.json()["messages"][-1]["content"] for request in upstream.requests] == ["asked"]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("one\r", "one"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\r\nthree\x1b[201~\r", "one\ntwo\nthree"),
    ],
    ids=["Enter sends", "backslash", "Alt-Enter", "a paste keeps its lines"],
)
async def test_several_lines_can_be_typed(keys: str, line: str) -> None:
    with create_pipe_input() as typed:
        prompt = LinePrompt(None, list, input=typed, output=DummyOutput())
        typed.send_text(keys)
        assert await prompt.read() == line


async def test_arrow_up_brings_the_last_question_back() -> None:
    with create_pipe_input() as typed:
        prompt = LinePrompt(None, list, input=typed, output=DummyOutput())
        for keys, line in (("first\r", "first"), ("second\r", "second"), ("\x1b[A\x1b[A\r", "first")):
            typed.send_text(keys)
            assert await prompt.read() == line


async def test_ctrl_c_and_ctrl_d_are_told_apart() -> None:
    with create_pipe_input() as typed:
        prompt = LinePrompt(None, list, input=typed, output=DummyOutput())
        typed.send_text("a\x03")
        with pytest.raises(Interrupted) as interrupted:
            await prompt.read()
        assert interrupted.value.had_text
        typed.send_text("\x04")
        with pytest.raises(EOFError):
            await prompt.read()


def test_commands_and_models_are_completed() -> None:
    completer = CommandCompleter(lambda: ["small", "large"])

    def completions(typed: str) -> list[str]:
        return [found.text for found in completer.get_completions(Document(typed), CompleteEvent())]

    assert completions("/s") == ["/system", "/save", "/save!"]
    assert completions("/model l") == ["large"]
    assert completions("hello /s") == []


async def test_what_was_typed_is_remembered_for_its_owner_only(tmp_path: Path) -> None:
    path = history_path({"XDG_STATE_HOME": str(tmp_path)})
    with create_pipe_input() as typed:
        prompt = LinePrompt(path, list, input=typed, output=DummyOutput())
        typed.send_text("remember me\r")
        await prompt.read()
    assert "+remember me" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_long_history_loses_its_older_half(tmp_path: Path) -> None:
    path = tmp_path / "history"
    entries = [f"\n# 2026-01-01\n+question {number}\n" for number in range(MAX_HISTORY_BYTES // 20)]
    path.write_text("".join(entries))
    assert prepare_history(path)
    kept = path.read_text()
    assert len(kept) <= MAX_HISTORY_BYTES // 2
    assert kept.startswith("\n# ")
    assert kept.endswith(entries[-1])


def test_a_chat_without_a_place_for_its_history_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not prepare_history(tmp_path / "file" / "history")
    assert history_path({"XDG_STATE_HOME": "relative"}).is_absolute()
