"""What went wrong with a question, in one sentence that says what to do."""

from unbroken.chat.fault import Fault


class ChatFailed(Exception):
    """There is no whole answer; the message is one sentence for the person who asked."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault
