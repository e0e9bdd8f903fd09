"""One question, one answer."""

from collections.abc import Sequence

from unbroken.client.failure import ChatFailed
from unbroken.client.interrupt import silent_keyboard, until_interrupted
from unbroken.client.plain_view import AnswerView
from unbroken.client.session import ChatSession, Notice
from unbroken.client.surface import Surface

FAILED, INTERRUPTED = 1, 130
RECONNECTED = "reconnected: the line dropped, and the answer went on"
_ENDINGS = {
    "length": "The answer is cut short: it reached the limit of tokens (--max-tokens, or the model's context).",
    "content_filter": "The answer is cut short: the server's content filter stopped it.",
}


async def answer_once(
    session: ChatSession, question: str, output: Surface, aside: Surface, *, stats: bool, remark: str = ""
) -> int:
    """Ask, show the answer on `output` and all else on `aside`; gives the exit code.

    `remark` goes with the line of tokens and speed.
    """
    view = output.new_view()
    view.wait()
    try:
        with silent_keyboard():
            answered = await until_interrupted(session.ask(question, view.show, between(view, aside)))
    except ChatFailed as failed:
        view.end()
        aside.complain(str(failed))
        return FAILED
    view.end()
    if answered is None:
        return INTERRUPTED
    if answered.is_resumed:
        aside.say(RECONNECTED)
    if ending := ending_note(answered.reason):
        aside.say(ending)
    if stats:
        aside.say(f"{answered.stats} ({remark})" if remark else answered.stats)
    return 0


def between(view: AnswerView, aside: Surface) -> Notice:
    """Says what there is to say before the answer begins, without a rest of the waiting on the screen."""

    def notice(text: str) -> None:
        view.end()
        aside.say(text)
        view.wait()

    return notice


def ending_note(reason: str) -> str | None:
    """What a reader must know of why the answer ended; None where it just ended."""
    return _ENDINGS.get(reason)


def joined_prompt(parts: Sequence[str | None]) -> str:
    """The prompt and what was piped in, as one question."""
    return "\n\n".join(stripped for part in parts if (stripped := (part or "").strip("\n")).strip())
