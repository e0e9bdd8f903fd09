"""How far an answer has come."""

from enum import Enum


class Progress(Enum):
    """How far an answer has come."""

    WAITING = "waiting"  # nothing of the answer itself has been seen
    OPEN = "open"
    FINISHED = "finished"  # every choice has its finish_reason; usage may still come
    ENDED = "ended"
