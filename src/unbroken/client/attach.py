"""Showing a stream that exists already: what it has said, and what it goes on to say."""

from contextlib import aclosing

from unbroken.chat.events import Finished
from unbroken.client.api import ChatApi
from unbroken.client.failure import ChatFailed
from unbroken.client.interrupt import silent_keyboard, until_interrupted
from unbroken.client.one_shot import FAILED, INTERRUPTED, RECONNECTED, ending_note
from unbroken.client.plain_view import AnswerView
from unbroken.client.surface import Surface


async def show_stream(api: ChatApi, stream: str, output: Surface, aside: Surface) -> int:
    """Show a stream to its end on `output`, all else on `aside`; gives the exit code. Leaving does not stop it."""
    view = output.new_view()
    try:
        with silent_keyboard():
            reason = await until_interrupted(_show(api, stream, view))
    except ChatFailed as failed:
        view.end()
        aside.complain(str(failed))
        return FAILED
    view.end()
    if reason is None:
        return INTERRUPTED
    if api.resumed:
        aside.say(RECONNECTED)
    if ending := ending_note(reason):
        aside.say(ending)
    return 0


async def _show(api: ChatApi, stream: str, view: AnswerView) -> str:
    """Show a stream; gives why its answer ended, in the server's word."""
    reason = ""
    async with aclosing(api.attach(stream)) as groups:
        async for events in groups:
            view.show(events)
            reason = next((event.reason for event in events if isinstance(event, Finished)), reason)
    return reason
