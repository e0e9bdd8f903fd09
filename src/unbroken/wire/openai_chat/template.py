"""Templates of chunks, learned on the diagonal: from an upstream's chunk to the same chunk with our id and model."""

from unbroken.wire.template import Hole, PaddedTemplate, Template, strings_named

_TEXTS = frozenset({b"content", b"reasoning_content", b"reasoning", b"refusal", b"arguments"})
_PADDING = b"obfuscation"  # random text that makes every chunk as long as the next


def learn_templates(
    data: bytes, block: bytes
) -> tuple[Template | PaddedTemplate | None, Template | PaddedTemplate | None]:
    """How to get from a chunk to its block, learned from the chunk `data` that became `block`; None if it is no model.

    The second is for chunks as they come in most reads, with `data: ` before and an empty line behind.
    """
    holes = _holes(data)
    names = [name for name, _, _ in holes]
    if not 0 < len(names) <= 2 or names[0] not in _TEXTS or names[1:] != [_PADDING] * (len(names) - 1):
        return None, None
    fixed, block_fixed = _around(data, holes), _around_same(data, block, holes)
    if block_fixed is None:
        return None, None
    template = PaddedTemplate(fixed, block_fixed) if len(holes) == 2 else Template(*fixed, *block_fixed)
    if b"\n" in data:  # of several lines; each begins with its own `data:`
        return template, None
    return template, template.within(b"data: ", b"\n\n")


def _holes(data: bytes) -> list[Hole]:
    """Every string that is likely to differ from chunk to chunk."""
    return strings_named(data, _TEXTS, also_empty=(_PADDING,))


def _around(data: bytes, holes: list[Hole]) -> list[bytes]:
    """The pieces of `data` before, between and after the holes."""
    starts = [0, *(end for _, _, end in holes)]
    ends = [*(start for _, start, _ in holes), len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


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
