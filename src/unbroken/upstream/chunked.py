"""HTTP's chunked coding, as far as a read that is just one chunk goes (RFC 9112, section 7.1)."""

LONGEST = 4 << 10  # bytes of such a read with its framing; what is longer is no single piece of an answer

END = b"\r\n"


SIZE_LINES = tuple(b"%x\r\n" % size for size in range(2 * LONGEST))
"""With what a chunk begins, by its size."""


def _read_lines() -> list[bytes]:
    no_line = bytes(LONGEST)  # longer than any of them: some lengths are no chunk's
    lines = [no_line] * LONGEST
    for size, line in enumerate(SIZE_LINES[1:LONGEST], 1):
        length = len(line) + size + len(END)
        if length < LONGEST:
            lines[length] = line
    return lines


READ_LINES = _read_lines()
"""With what a read begins that is just one chunk, by the length of the read."""


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
