"""What Anthropic's models take, as far as a request in another dialect's words has to know it.

Source: the provider's migration guides and the API's own refusals. A model of another maker behind this dialect is
taken for an old one: every server of the dialect knows those words.
"""

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"claude-(?:(?P<major>\d)(?:[-.](?P<minor>\d))?(?!\d)-)?(?P<line>opus|sonnet|haiku|fable|mythos|instant)"
    r"(?:-(?P<new_major>\d{1,2})(?!\d)(?:[-.](?P<new_minor>\d{1,2})(?!\d))?)?"
)

_DEFAULT_MAX_TOKENS = 4096
"""For models of which nothing is known: the least that any of this dialect allows."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one model takes."""

    #: `max_tokens` for a caller whose dialect does not ask for it.
    max_tokens: int = _DEFAULT_MAX_TOKENS
    #: `temperature`, `top_p` and `top_k`.
    has_sampling: bool = True
    #: Whether `temperature` and `top_p` may be said together.
    has_both_samplings: bool = True
    #: `thinking: {"type": "adaptive"}` with `output_config.effort`.
    has_adaptive_thinking: bool = False
    #: `thinking: {"type": "enabled", "budget_tokens": …}`.
    has_thinking_budget: bool = True
    #: Messages with the role `system` behind a user's turn.
    has_later_system: bool = False


#: From which version on a model takes what, newest first; a row holds until the next.
_SINCE: tuple[tuple[tuple[int, int], Abilities], ...] = (
    ((4, 8), Abilities(16384, False, False, True, False, True)),
    ((4, 7), Abilities(16384, False, False, True, False)),
    ((4, 6), Abilities(16384, True, False, True)),
    ((4, 1), Abilities(8192, True, False)),
    ((4, 0), Abilities(8192)),
    ((3, 5), Abilities(8192)),
    ((0, 0), Abilities()),
)

_UNNUMBERED = {"mythos": (4, 8), "fable": (4, 8)}  # lines that are younger than that version


def abilities_of(model: str) -> Abilities:
    """What the model of this name takes, also where a cloud put its own words around the name."""
    name = _NAME.search(model.lower())
    if name is None:
        return Abilities()
    major = name["new_major"] or name["major"]
    minor = name["new_minor"] if name["new_major"] else name["minor"]
    version = (int(major), int(minor or 0)) if major else _UNNUMBERED.get(name["line"], (0, 0))
    return next(abilities for since, abilities in _SINCE if version >= since)
