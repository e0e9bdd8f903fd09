"""How much of a conversation fits into a model's context, by whole turns. Pure."""

import re
from dataclasses import dataclass, replace

from unbroken.client.conversation import Conversation

BYTES_PER_TOKEN = 4  # a usual figure for English; corrected by what servers report
TOKENS_PER_MESSAGE = 4  # a chat template's marks around each message
ANSWER_SHARE = 4  # no more than a quarter of the context is kept free for the answer
MAX_ANSWER_ROOM = 1024  # tokens kept free where no limit was asked for

_LENGTH_IN_WORDS = re.compile(r"context (?:length|size|window)\D{0,30}(\d{3,8})|(\d{3,8})[- ]tokens? context", re.I)


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a conversation is sent, and how many of its oldest turns are left out."""

    conversation: Conversation
    left_out: int


@dataclass(frozen=True, slots=True)
class ContextEstimate:
    """Guesses tokens from bytes; `correction` is what the server counted over what we had guessed."""

    #: Tokens, None where nobody has said it.
    length: int | None = None
    correction: float = 1.0

    def tokens(self, conversation: Conversation) -> int:
        """About how many tokens the conversation is for the model."""
        return round(_guess(conversation) * self.correction)

    def corrected(self, sent: Conversation, counted: int) -> "ContextEstimate":
        """The estimate that knows how many tokens the server counted for what was sent."""
        guess = _guess(sent)
        return replace(self, correction=counted / guess) if guess and counted else self

    def fit(self, conversation: Conversation, answer_room: int | None = None) -> Fit:
        """As many of the newest turns as leave room for an answer of `answer_room` tokens; always the last one."""
        if self.length is None:
            return Fit(conversation, 0)
        room = min(answer_room or MAX_ANSWER_ROOM, self.length // ANSWER_SHARE)
        left_out = 0
        while left_out < len(conversation.turns) - 1:
            kept = conversation.without_turns(left_out)
            if self.tokens(kept) + room <= self.length:
                break
            left_out += 1
        return Fit(conversation.without_turns(left_out), left_out)


def read_context_length(message: str) -> int | None:
    """The context length that a server's complaint names, in tokens."""
    found = _LENGTH_IN_WORDS.search(message)
    return int(found[1] or found[2]) if found else None


def shorter(fit: Fit) -> Fit | None:
    """Half as many turns; None where only one is left."""
    turns = len(fit.conversation.turns)
    if turns < 2:
        return None
    dropped = (turns + 1) // 2
    return Fit(fit.conversation.without_turns(dropped), fit.left_out + dropped)


def _guess(conversation: Conversation) -> float:
    messages = conversation.messages()
    size = sum(len(message["content"].encode(errors="replace")) for message in messages)
    return size / BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages)
