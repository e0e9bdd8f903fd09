"""Templates of chunks, learned on the diagonal: from an upstream's chunk to the same chunk with our id and model."""

import re

from unbroken.wire.template import Hole, PaddedTemplate, Template

_PADDING = b"obfuscation"  # random text that makes every chunk as long as the next

# A member whose string is likely to differ from chunk to chunk. Quotes inside strings are escaped, so a quote behind
# a brace, a comma or white space, with a name behind it, begins the name.
_HOLE = re.compile(
    rb'[{,]\s*"(content|reasoning_content|reasoning|refusal|arguments|obfuscation)"\s*:\s*("(?:[^"\\]++|\\.)*+")',
    re.DOTALL,
)


def learn_templates(
    data: bytes, block: bytes
) -> tuple[Template | PaddedTemplate | None, Template | PaddedTemplate | None]:
    """How to get from a chunk to its block, learned from the chunk `data` that became `block`; None if it is no model.

    The second is for chunks as they come in most reads, with `data: ` before and an empty line behind.
    """
    if b"\n" in data:  # of several lines; each begins with its own `data:`
        return None, None
    holes = _holes(data)
    names = [name for name, _, _ in holes]
    if not 0 < len(names) <= 2 or names[0] == _PADDING or names[1:] != [_PADDING] * (len(names) - 1):
        return None, None
    fixed, block_fixed = _around(data, holes), _around_same(data, block, holes)
    if block_fixed is None:
        return None, None
    template = PaddedTemplate(fixed, block_fixed) if len(holes) == 2 else Template(*fixed, *block_fixed)
    return template, template.within(b"data: ", b"\n\n")


def _holes(data: bytes) -> list[Hole]:
    """Every string that is likely to differ from chunk to chunk; an empty one only where it is padding."""
    found = [(hole[1], *hole.span(2)) for hole in _HOLE.finditer(data)]
    return [hole for hole in found if hole[2] - hole[1] > 2 or hole[0] == _PADDING]


def _around(data: bytes, holes: list[Hole]) -> list[bytes]:
    """The pieces of `data` before, between and after the holes."""
    pieces, done = [], 0
    for _, start, end in holes:
        pieces.append(data[done:start])
        done = end
    return [*pieces, data[done:]]


def _around_same(data: bytes, block: bytes, holes: list[Hole]) -> list[bytes] | None:
    """The pieces of `block` around the texts that `data` has in its holes; None where the block says something else."""
    rest = data[holes[0][1] :] + b"\n\n"
    if block.endswith(rest):  # what we exchange stands before the text, as with nearly all servers
        shift = len(block) - len(rest) - holes[0][1]
        return _around(block, [(name, start + shift, end + shift) for name, start, end in holes])
    block_holes = _holes(block)
    if [data[start:end] for _, start, end in holes] != [block[start:end] for _, start, end in block_holes]:
        return None
    return _around(block, block_holes)
