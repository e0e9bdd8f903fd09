"""What is wrong with a request, in the caller's words; those of OpenAI's other dialect."""

from typing import TypeVar

import msgspec
from msgspec import Raw

from unbroken.chat.error import RequestRefused, invalid
from unbroken.wire.openai_chat import request as other

T = TypeVar("T")

explain = other.explain
syntax_problem = other.syntax_problem


def read_as(decoder: msgspec.json.Decoder[T], raw: Raw, where: str) -> T:
    """The value of the field `where`.

    Raises:
        RequestRefused: 400 that names the field inside it, what was found and what was expected.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        problem, at, path = str(error).rpartition(" - at `$")
        if not at:
            problem, path = str(error), "`"
        raise explain(f"{problem} - at `$.{where}{path}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"Invalid value for '{where}': {error}.", param=where, code="invalid_value") from None


def no_word(where: str, what: str) -> RequestRefused:
    """The refusal of what only an upstream of this dialect could be asked: 400 that names the field."""
    return invalid(f"Invalid value for '{where}': {what}.", param=where, code="unsupported_parameter")
