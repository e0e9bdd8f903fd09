"""Failures of a server put into one sentence each, with what to do about it. Pure."""

import ssl
from collections.abc import Iterator, Sequence

import httpx2

from unbroken.chat.counted import counted
from unbroken.chat.fault import Failure, Fault

MAX_LISTED = 8  # models named in a sentence
URL_HINT = 'Is the base URL right? It mostly ends in "/v1".'


def cannot_reach(base_url: str, error: httpx2.HTTPError | httpx2.InvalidURL) -> str:
    """Why no answer came from the server at all."""
    causes = list(_causes(error))
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return f'"{base_url}" is not an address that can be asked: give --base-url as in http://127.0.0.1:8080/v1.'
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return f"The certificate of {base_url} is not trusted: {_last_words(causes)}."
    if isinstance(error, httpx2.ConnectTimeout):
        return f"{base_url} does not answer: no connection in time. Is the address right, and the server up?"
    if isinstance(error, httpx2.ConnectError):
        return (
            f"Nothing answers at {base_url} ({_last_words(causes)}). "
            "Start a server with `unbroken serve`, or name another one with --base-url."
        )
    if isinstance(error, httpx2.TimeoutException):
        return f"{base_url} took the question but gave no answer in time."
    return f"The connection to {base_url} broke before the answer began: {_last_words(causes)}."


def refused(base_url: str, failure: Failure, *, retry_after: str | None = None) -> str:
    """Why the server answered with an error status."""
    said = _sentence(failure.message)
    if failure.status in (401, 403):
        return f"{base_url} refused the API key: {said} Give one with --api-key or UNBROKEN_API_KEY."
    if failure.status == 429:
        when = f" Try again in {retry_after} s." if retry_after and retry_after.isdigit() else ""
        return f"{base_url} is asked too much: {said}{when}"
    if failure.fault is Fault.CONTEXT_LENGTH:
        return f"The conversation is too long for the model: {said}"
    # A body that says nothing is told by its status and kind alone.
    return f"{base_url} {said}" if said.startswith("answered ") else f"{base_url} answered {failure.status}: {said}"


def no_such_model(base_url: str, failure: Failure, model: str, models: Sequence[str] | None) -> str:
    """Why the server answered 404: `models` is what it has, None if it does not say."""
    if models is None:
        return no_api(base_url, failure)
    if model in models:
        return refused(base_url, failure)
    listed = ", ".join(models[:MAX_LISTED]) + (", …" if len(models) > MAX_LISTED else "")
    return f'There is no model "{model}" at {base_url}. It has: {listed or "none"}.'


def no_api(base_url: str, failure: Failure) -> str:
    """Why nothing that we know is at this address."""
    return f"{base_url} answered {failure.status}: {_sentence(failure.message)} {URL_HINT}"


def broke_off(characters: int, why: str) -> str:
    """Why an answer that had begun is not whole, and how much of it came."""
    if not characters:
        return f"The answer broke off before its first word: {_sentence(why)}"
    return f"The answer broke off after {counted(characters, 'character')} and is not complete: {_sentence(why)}"


def _sentence(words: str) -> str:
    words = " ".join(words.split())
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_words(causes: Sequence[BaseException]) -> str:
    """What the deepest cause that says anything says, without its full stop."""
    for cause in reversed(causes):
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        words = getattr(cause, "strerror", None) or str(cause)
        if words:
            return str(words).rstrip(".")
    return type(causes[0]).__name__
