"""Text from a model, made safe for a terminal: it may say what it likes, and steer nothing."""

_KEPT = "\n\t"
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT}
_BIDI = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # they can make text read as what it is not
_STEERING = _CONTROLS | _BIDI


def visible(text: str) -> str:
    """The text without C0 and C1 control characters (but line feed and tab) and without bidirectional overrides."""
    return text if text.isascii() and text.isprintable() else text.translate(_STEERING)


def visible_line(text: str) -> str:
    """The same, on one line."""
    return " ".join(visible(text).split())
