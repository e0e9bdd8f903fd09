"""Which upstreams can answer for a model, and which of them first."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unbroken.rules.globs import ModelEntry

MAX_NAME = 1024  # characters of a model's name; paths of files are the longest there are
MAX_REMEMBERED = 1000  # names that clients may invent under a glob


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
        self._served = {entry.upstream: (entry, [ModelEntry.read(text) for text in entry.models]) for entry in served}
        self._routes = [(ModelEntry(route.model, route.model), route) for route in routes]
        self._found: dict[str, tuple[Tier, ...]] = {}

    def tiers(self, model: str) -> tuple[Tier, ...]:
        """The targets for `model`, tier by tier; empty where nobody serves it."""
        if (found := self._found.get(model)) is None:
            if len(model) > MAX_NAME:
                return ()
            found = self._route(model) or self._listed(model)
            if found:
                if len(self._found) >= MAX_REMEMBERED:
                    self._found.clear()  # invented names do not keep out those that are asked for
                self._found[model] = found
        return found

    def names(self) -> list[str]:
        """Every model that can be asked for by an exact name, in the order of the configuration."""
        entries = [entry for entry, _ in self._routes]
        entries += [entry for _, listed in self._served.values() for entry in listed]
        return list(dict.fromkeys(entry.ours for entry in entries if not entry.is_glob))

    def globs(self) -> list[str]:
        """The patterns of all other names that are taken, in the order of the configuration."""
        entries = [entry for entry, _ in self._routes]
        entries += [entry for _, listed in self._served.values() for entry in listed]
        return list(dict.fromkeys(entry.ours for entry in entries if entry.is_glob))

    def has_globs(self) -> bool:
        """Whether models can be asked for that `names` does not list."""
        return any(entry.is_glob for _, listed in self._served.values() for entry in listed)

    def _route(self, model: str) -> tuple[Tier, ...]:
        exact = [route for entry, route in self._routes if entry.is_exactly(model)]
        globs = [route for entry, route in self._routes if entry.is_glob and entry.translate(model) is not None]
        for route in (exact or globs)[:1]:
            tiers = (tuple(self._targets(tier, model)) for tier in route.tiers)
            return tuple(tier for tier in tiers if tier)
        return ()

    def _targets(self, tier: Sequence[str], model: str) -> Iterator[Target]:
        for choice in tier:
            name, _, other = choice.partition(":")
            if name in self._served:
                served, listed = self._served[name]
                asked = other or model
                yield Target(name, _theirs(listed, asked) or asked, asked, served.weight)

    def _listed(self, model: str) -> tuple[Tier, ...]:
        exact: list[Target] = []
        globs: list[Target] = []
        for served, listed in self._served.values():
            if (theirs := _theirs(listed, model)) is not None:
                is_exact = any(entry.is_exactly(model) for entry in listed)
                (exact if is_exact else globs).append(Target(served.upstream, theirs, model, served.weight))
        return tuple(tuple(tier) for tier in (exact, globs) if tier)


def in_order(
    tiers: Iterable[Tier],
    *,
    open_requests: Mapping[str, int],
    is_available: Callable[[str], bool],
    chance: Callable[[], float],
) -> list[Target]:
    """The targets in the order to try: tier by tier, in a tier the least busy for its weight first.

    Targets that are not available (circuit open) are left out. `chance` gives numbers from 0 to 1; among
    equally idle targets it picks by weight. A weight of 0 comes last in its tier, however busy the others are.
    """

    def busyness(target: Target) -> tuple[bool, float, float]:
        weight = max(target.weight, 1e-9)
        # The least of -log(u)/weight is each target with a probability by its weight.
        draw = -math.log(chance() or 1e-12)
        return target.weight <= 0, open_requests.get(target.upstream, 0) / weight, draw / weight

    ordered: list[Target] = []
    for tier in tiers:
        available = [target for target in tier if is_available(target.upstream)]
        ordered += available if len(available) < 2 else sorted(available, key=busyness)
    return ordered


def _theirs(listed: Sequence[ModelEntry], model: str) -> str | None:
    """What the upstream calls `model`; None where it does not list it. Its exact names go before its globs."""
    for entry in listed:
        if entry.is_exactly(model):
            return entry.theirs
    for entry in listed:
        if (theirs := entry.translate(model)) is not None:
            return theirs
    return None
