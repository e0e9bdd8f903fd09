"""HTTP's chunked coding, as far as a read that is just one chunk goes (RFC 9112, section 7.1)."""

LONGEST = 8 << 10  # bytes of such a read with its framing; what is longer is no single piece of an answer

END = b"\r\n"


def _framing(length: int) -> bytes:
    """The size line of the chunk that has `length` bytes with its framing; what no chunk begins with if none has."""
    for digits in range(1, 5):
        size = length - digits - 2 * len(END)
        if size > 0 and len(b"%x" % size) == digits:
            return b"%x\r\n" % size
    return b"\n"


READ_LINES = tuple(_framing(length) for length in range(LONGEST))
"""With what a read begins that is one chunk, by the length of the read."""

SIZE_LINES = tuple(b"%x\r\n" % size for size in range(2 * LONGEST))
"""With what a chunk begins, by its size."""


def chunks_in(data: bytes) -> list[bytes] | None:
    """The bodies of the chunks that `data` is, if it begins where a chunk begins; None if it ends elsewhere.

    Also None for the last chunk, which is empty, and for framing that is unusual: a parser knows what to do with it.
    """
    chunks = []
    at, length = 0, len(data)
    while at < length:
        start = data.find(b"\n", at, at + 8) + 1
        line = data[at:start]
        try:
            size = int(line, 16)
        except ValueError:
            return None
        at = start + size + len(END)
        if not 0 < size < len(SIZE_LINES) or SIZE_LINES[size] != line.lower() or data[start + size : at] != END:
            return None
        chunks.append(data[start : start + size])
    return chunks


def only_chunk(data: bytes) -> bytes | None:
    """The body of the one chunk that `data` is, if it begins where a chunk begins; None if it is anything else."""
    length = len(data)
    if length < LONGEST and data.startswith(line := READ_LINES[length]) and data.endswith(END):
        return data[len(line) : -len(END)]
    return None
