"""Numbers in sentences."""


def counted(number: int, thing: str) -> str:
    """So many of a thing: `1 chunk`, `41 chunks`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
