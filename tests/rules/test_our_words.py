"""What the log may say of a failure."""

import pytest

from unbroken.chat.fault import Failure, Fault
from unbroken.rules.our_words import in_our_words

PRIVATE = "4111 1111"


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_every_failure_has_words_of_ours(fault: Fault) -> None:
    said = in_our_words(Failure(fault, f"cannot parse {PRIVATE}", 500, is_quoted=True))
    assert said.endswith("(500)")
    assert PRIVATE not in said
