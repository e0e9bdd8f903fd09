"""How much the model may think, in the words that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.chat.conversation import Reasoning
from unbroken.chat.error import invalid
from unbroken.wire.anthropic_messages.abilities import Abilities

MIN_BUDGET = 1024  # the API's own bound

_EFFORTS: Mapping[str, str] = {
    "minimal": "low",  # there is no lower word
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}

#: Tokens to think with, for models that know no words for it; all of them fit below 32,000 with what is said.
_BUDGETS: Mapping[str, int] = {
    "minimal": MIN_BUDGET,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 20480,
    "max": 23552,
}

_DISPLAYS: Mapping[str, str] = {
    "summarized": "summarized",
    "omitted": "omitted",
    "auto": "summarized",
    "concise": "summarized",
    "detailed": "summarized",
}


@dataclass(frozen=True, slots=True)
class Effort:
    """The fields of a request that say how much may be thought, and how much said in all."""

    max_tokens: int
    thinking: dict[str, Any] | None = None
    #: For `output_config`.
    effort: str | None = None
    dropped: tuple[str, ...] = ()

    @property
    def is_thinking(self) -> bool:
        """Whether the model is asked to think."""
        return self.thinking is not None and self.thinking["type"] != "disabled"


def write_effort(
    wished: Reasoning | None, abilities: Abilities, max_tokens: int | None, *, lacks_thoughts: bool = False
) -> Effort:
    """What is wished, as the model takes it; `max_tokens` is for a thinking model what it thinks and says.

    With a budget, a model refuses results of calls whose thoughts are not there (`lacks_thoughts`): it goes on
    without thinking, and the caller is told.

    Raises:
        RequestRefused: there is no such effort.
    """
    most = abilities.max_tokens if max_tokens is None else max_tokens
    if wished is None:
        return Effort(most)
    if wished == Reasoning(summary=wished.summary):
        return Effort(most, dropped=_unshown(wished.summary is not None))
    if wished.enabled is False or wished.effort == "none":
        return Effort(most, {"type": "disabled"})
    if wished.effort is not None and wished.effort not in _EFFORTS:
        problem = f'"{wished.effort}" is none of low, medium, high, xhigh and max'
        raise invalid(f"reasoning_effort: {problem}", param="reasoning_effort")
    if abilities.has_adaptive_thinking and (wished.budget is None or not abilities.has_thinking_budget):
        unsaid = () if wished.budget is None else ("thinking.budget_tokens",)
        dropped = (*unsaid, *_unshown(wished.summary not in (None, *_DISPLAYS)))
        return Effort(most, _shown({"type": "adaptive"}, wished), _EFFORTS.get(wished.effort or ""), dropped)
    if lacks_thoughts:
        return Effort(most, dropped=("reasoning_effort" if wished.budget is None else "thinking.budget_tokens",))
    return _with_budget(wished, abilities, max_tokens)


def _with_budget(wished: Reasoning, abilities: Abilities, max_tokens: int | None) -> Effort:
    budget = wished.budget or _BUDGETS[wished.effort or "medium"]
    # What the caller did not bound grows by the thoughts, so that as much as before is left to say.
    most = abilities.max_tokens + budget if max_tokens is None else max_tokens
    if wished.budget is None:
        budget = min(budget, most - 1)
        if budget < MIN_BUDGET:
            return Effort(most, dropped=("reasoning_effort",))  # no room to think in
    effort = wished.effort if abilities.has_adaptive_thinking else None
    thinking = _shown({"type": "enabled", "budget_tokens": budget}, wished)
    return Effort(most, thinking, effort and _EFFORTS[effort], _unshown(wished.summary not in (None, *_DISPLAYS)))


def _unshown(is_unsaid: bool) -> tuple[str, ...]:
    """What is dropped where thoughts cannot be shown as it is wished."""
    return ("reasoning.summary",) if is_unsaid else ()


def _shown(thinking: dict[str, Any], wished: Reasoning) -> dict[str, Any]:
    display = _DISPLAYS.get(wished.summary or "")
    return thinking if display is None else {**thinking, "display": display}
