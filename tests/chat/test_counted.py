"""Numbers in sentences."""

from unbroken.chat.counted import counted


def test_one_thing_is_no_plural() -> None:
    assert [counted(number, "chunk") for number in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]
