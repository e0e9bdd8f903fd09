"""The id that a request has in every response, error and line of the log."""

import random
import re

_TAKEN_OVER = re.compile(rb"[\x21-\x7e]{1,128}")  # printable, and nothing that could end a header


def request_id(given: bytes) -> bytes:
    """The client's own id where it is fit to be repeated, else a new one."""
    if given and _TAKEN_OVER.fullmatch(given):
        return given
    return b"req_%024x" % random.getrandbits(96)  # it need be unique, not secret
