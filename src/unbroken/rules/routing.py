"""Which upstreams can answer for a model, and which of them first."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream asked for one model."""

    upstream: str
    #: The model's name at the upstream.
    model: str
    #: The name under which the client knows the model that answers.
    public: str
    weight: float = 1.0


Tier = tuple[Target, ...]
"""Equals: any of them may be asked first."""


@dataclass(frozen=True, slots=True)
class Served:
    """The models of one upstream: names, globs and `ours = theirs` pairs."""

    upstream: str
    models: Sequence[str]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """The upstreams of a model in the order to try; `name:model` asks an upstream for another model."""

    model: str
    tiers: Sequence[Sequence[str]]


class RoutingTable:
    """Answers which targets serve a model. Exact names go before globs, routes before both."""

    def __init__(self, served: Iterable[Served], routes: Iterable[Route] = ()) -> None:
        self._served = {entry.upstream: entry for entry in served}
        self._routes = tuple(routes)
        self._found: dict[str, tuple[Tier, ...]] = {}

    def tiers(self, model: str) -> tuple[Tier, ...]:
        """The targets for `model`, tier by tier; empty where nobody serves it."""
        if (found := self._found.get(model)) is None:
            found = self._route(model) or self._listed(model)
            if found and len(self._found) < MAX_REMEMBERED:
                self._found[model] = found
        return found

    def names(self) -> list[str]:
        """Every model that can be asked for by an exact name, in the order of the configuration."""
        listed = [route.model for route in self._routes]
        listed += [_pair(entry)[0] for served in self._served.values() for entry in served.models]
        return list(dict.fromkeys(name for name in listed if not _is_glob(name)))

    def has_globs(self) -> bool:
        """Whether models can be asked for that `names` does not list."""
        return any(_is_glob(_pair(entry)[0]) for served in self._served.values() for entry in served.models)

    def _route(self, model: str) -> tuple[Tier, ...]:
        exact = [route for route in self._routes if route.model == model]
        globs = [route for route in self._routes if _is_glob(route.model) and _matches(route.model, model) is not None]
        for route in (exact or globs)[:1]:
            tiers = (tuple(self._targets(tier, model)) for tier in route.tiers)
            return tuple(tier for tier in tiers if tier)
        return ()

    def _targets(self, tier: Sequence[str], model: str) -> Iterator[Target]:
        for choice in tier:
            name, _, other = choice.partition(":")
            if served := self._served.get(name):
                asked = other or model
                theirs = self._theirs(served, asked) or asked
                yield Target(name, theirs, asked, served.weight)

    def _listed(self, model: str) -> tuple[Tier, ...]:
        exact: list[Target] = []
        globs: list[Target] = []
        for served in self._served.values():
            if (theirs := self._theirs(served, model)) is not None:
                is_exact = any(_pair(entry)[0] == model for entry in served.models)
                target = Target(served.upstream, theirs, model, served.weight)
                (exact if is_exact else globs).append(target)
        return tuple(tuple(tier) for tier in (exact, globs) if tier)

    @staticmethod
    def _theirs(served: Served, model: str) -> str | None:
        """What `served` calls `model`; None where it does not serve it."""
        pairs = [_pair(entry) for entry in served.models]
        for ours, theirs in pairs:
            if ours == model:
                return theirs
        for ours, theirs in pairs:
            if _is_glob(ours) and (star := _matches(ours, model)) is not None:
                return model if theirs == ours else theirs.replace("*", star, 1)
        return None


MAX_REMEMBERED = 1000  # names that clients may invent under a glob


def in_order(
    tiers: Iterable[Tier],
    *,
    open_requests: Mapping[str, int],
    is_available: Callable[[str], bool],
    chance: Callable[[], float],
) -> list[Target]:
    """The targets in the order to try: tier by tier, in a tier the least busy for its weight first.

    Targets that are not available (circuit open) are left out. `chance` gives numbers from 0 to 1; among
    equally idle targets it picks by weight.
    """

    def busyness(target: Target) -> tuple[float, float]:
        weight = max(target.weight, 1e-9)
        # The least of -log(u)/weight is each target with a probability by its weight.
        draw = -math.log(chance() or 1e-12)
        return open_requests.get(target.upstream, 0) / weight, draw / weight

    ordered: list[Target] = []
    for tier in tiers:
        available = [target for target in tier if is_available(target.upstream)]
        ordered += available if len(available) < 2 else sorted(available, key=busyness)
    return ordered


def _pair(entry: str) -> tuple[str, str]:
    ours, _, theirs = (part.strip() for part in entry.partition("="))
    return ours, theirs or ours


def _is_glob(name: str) -> bool:
    return "*" in name or "?" in name


def _matches(glob: str, model: str) -> str | None:
    """What the glob's first `*` stands for in `model`; None where it does not match."""
    parts = ("(.*)" if char == "*" else "." if char == "?" else re.escape(char) for char in glob)
    match = re.fullmatch("".join(parts), model, re.DOTALL)
    return None if match is None else (match[1] if match.groups() else "")
