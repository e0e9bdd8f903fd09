"""Routing: which upstreams serve a model, in which order; names that clients invent cost nothing."""

import random
import sys
from collections import Counter
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.rules.globs import ModelEntry
from unbroken.rules.routing import MAX_NAME, MAX_REMEMBERED, Route, RoutingTable, Served, Target, Tier, in_order

Short = list[list[tuple[str, str, str]]]


def short(tiers: tuple[Tier, ...]) -> Short:
    """(upstream, their name, the public name) tier by tier."""
    return [[(target.upstream, target.model, target.public) for target in tier] for tier in tiers]


TABLE = RoutingTable(
    [
        Served("openai", ["gpt-*", "fast = gpt-mini", "openai/* = *", "o? = reasoning"]),
        Served("other", ["gpt-4o", "x/*/y-* = *"]),
        Served("local", ["llama", "llama3:8b"]),
    ],
    [
        Route("smart", [["openai:gpt-4o", "other:gpt-4o"], ["local:llama3:8b"]]),
        Route("gpt-4.1*", [["other"]]),
        Route("gpt-4.1-nano", [["openai"], ["local"]]),
        Route("llama", [["unknown"]]),
        Route("nowhere", [["unknown"], []]),
    ],
)

# model: what serves it
SERVED: dict[str, Short] = {
    "gpt-3.5": [[("openai", "gpt-3.5", "gpt-3.5")]],
    "gpt-4o": [[("other", "gpt-4o", "gpt-4o")], [("openai", "gpt-4o", "gpt-4o")]],  # exact before glob
    "fast": [[("openai", "gpt-mini", "fast")]],  # ours = theirs
    "openai/gpt-4o": [[("openai", "gpt-4o", "openai/gpt-4o")]],  # what the star stands for
    "openai/": [[("openai", "", "openai/")]],
    "openai/a/b": [[("openai", "a/b", "openai/a/b")]],
    "o1": [[("openai", "reasoning", "o1")]],
    "x/1/y-2": [[("other", "1", "x/1/y-2")]],
    "smart": [
        [("openai", "gpt-4o", "gpt-4o"), ("other", "gpt-4o", "gpt-4o")],
        [("local", "llama3:8b", "llama3:8b")],
    ],
    "gpt-4.1-mini": [[("other", "gpt-4.1-mini", "gpt-4.1-mini")]],  # the route's glob before what lists it
    "gpt-4.1-nano": [[("openai", "gpt-4.1-nano", "gpt-4.1-nano")], [("local", "gpt-4.1-nano", "gpt-4.1-nano")]],
    "llama": [[("local", "llama", "llama")]],  # a route that leads nowhere is none
    "llama3:8b": [[("local", "llama3:8b", "llama3:8b")]],
    # nobody
    "nowhere": [],
    "": [],
    "GPT-4o": [],
    "agpt-4": [],
    "fast2": [],
    "o": [],
    "o11": [],
    "gpt-mini": [[("openai", "gpt-mini", "gpt-mini")]],
}


@pytest.mark.parametrize("model", SERVED)
def test_a_model_is_served_by_whom_the_table_says(model: str) -> None:
    """R6."""
    assert short(TABLE.tiers(model)) == SERVED[model]
    assert short(TABLE.tiers(model)) == SERVED[model], "the second time too"


def test_equals_are_one_tier_in_the_order_of_the_configuration() -> None:
    table = RoutingTable([Served("a", ["m"]), Served("b", ["m"], 2.0), Served("c", ["*"])])
    assert short(table.tiers("m")) == [[("a", "m", "m"), ("b", "m", "m")], [("c", "m", "m")]]
    assert [target.weight for target in table.tiers("m")[0]] == [1.0, 2.0]


def test_the_names_are_those_that_can_be_asked_for() -> None:
    assert TABLE.names() == ["smart", "gpt-4.1-nano", "llama", "nowhere", "fast", "gpt-4o", "llama3:8b"]
    assert TABLE.has_globs()
    assert not RoutingTable([Served("a", ["m"])]).has_globs()


# (entry, model, what the upstream calls it)
ENTRIES = [
    ("m", "m", "m"),
    ("m", "n", None),
    ("ours=theirs", "ours", "theirs"),
    (" ours =  theirs ", "ours", "theirs"),
    ("a = b = c", "a", "b = c"),
    ("ours =", "ours", "ours"),
    ("*", "anything at all\n", "anything at all\n"),
    ("a*c", "abc", "abc"),
    ("a*c", "ac", "ac"),
    ("a*c", "acb", None),
    ("a*b*c", "a-b-b-c", "a-b-b-c"),
    ("a*b*c = *", "a-b_b+c", "-"),
    ("a/* = *", "a/x\ny", "x\ny"),
    ("a/* = z/*/*", "a/x", "z/x/*"),
    ("gpt-? = *", "gpt-4", ""),
    ("gpt.4", "gpt-4", None),
    ("gpt-(4|5)*", "gpt-4", None),
    ("gpt-(4|5)*", "gpt-(4|5)", "gpt-(4|5)"),
    ("[ab]*", "a", None),
    ("[ab]*", "[ab]c", "[ab]c"),
    ("gpt-*", "gpt-*", "gpt-*"),
    ("m", "m\n", None),
]


@pytest.mark.parametrize(("entry", "model", "theirs"), ENTRIES)
def test_an_entry_means_what_it_says(entry: str, model: str, theirs: str | None) -> None:
    assert ModelEntry.read(entry).translate(model) == theirs


def naive(glob: str, model: str) -> bool:
    """Whether a glob matches, by the definition."""
    if not glob:
        return not model
    if glob[0] == "*":
        return any(naive(glob[1:], model[start:]) for start in range(len(model) + 1))
    return bool(model) and glob[0] in ("?", model[0]) and naive(glob[1:], model[1:])


@given(st.text("ab*?", max_size=7), st.text("ab", max_size=9))
def test_globs_match_by_their_definition(glob: str, model: str) -> None:
    assert (ModelEntry(glob, glob).translate(model) is not None) == naive(glob, model)


# names that a hostile client may send
HOSTILE = {
    "regular expression": "(a+)+$[]{}\\",
    "newlines": "gpt-4o\r\nx-injected: 1\n",
    "nul": "gpt\x00-4",
    "half a surrogate": "gpt-\ud800",
    "star": "*",
    "question mark": "?",
    "equals": "fast = gpt-mini",
    "colon": "openai:gpt-4o",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name_like_any_other(name: str) -> None:
    model = HOSTILE[name]
    assert RoutingTable([Served("a", ["gpt-4o", "b = c"])]).tiers(model) == ()
    assert short(RoutingTable([Served("a", ["*"])]).tiers(model)) == [[("a", model, model)]]


def test_a_name_that_is_too_long_is_nobodys() -> None:
    table = RoutingTable([Served("a", ["*"])], [Route("*", [["a"]])])
    assert table.tiers("m" * MAX_NAME)
    assert table.tiers("m" * (MAX_NAME + 1)) == ()


def test_a_name_made_to_be_hard_to_match_is_not() -> None:
    entry = ModelEntry.read("*a*a*a*a*a*a*a*a*b")
    began = perf_counter()
    assert entry.translate("a" * MAX_NAME) is None
    assert perf_counter() - began < 1.0  # with backtracking it would be years


def test_names_that_clients_invent_do_not_grow_memory() -> None:
    table = RoutingTable([Served("a", ["*"]), Served("b", ["real"])])
    for number in range(MAX_REMEMBERED * 20):
        assert table.tiers(f"invented-{number}")
    assert len(table._found) <= MAX_REMEMBERED
    for number in range(1000):
        RoutingTable([Served("a", ["b"])]).tiers(f"unknown-{number}")
    assert short(table.tiers("real")) == [[("b", "real", "real")], [("a", "real", "real")]]
    assert sys.getsizeof(table._found) < 1 << 20


def test_a_name_that_nobody_serves_is_not_remembered() -> None:
    table = RoutingTable([Served("a", ["b"])])
    for number in range(100):
        assert table.tiers(f"unknown-{number}") == ()
    assert not table._found


# order


def target(upstream: str, weight: float = 1.0) -> Target:
    return Target(upstream, "m", "m", weight)


def firsts(tiers: list[Tier], open_requests: dict[str, int], draws: int = 4000) -> Counter[str]:
    chance = random.Random(7).random
    return Counter(
        in_order(tiers, open_requests=open_requests, is_available=lambda name: True, chance=chance)[0].upstream
        for _ in range(draws)
    )


def test_equals_share_by_weight() -> None:
    shares = firsts([(target("a"), target("b", 3.0), target("c", 0.0))], {})
    assert shares["c"] == 0
    assert 0.22 < shares["a"] / 4000 < 0.28
    assert 0.72 < shares["b"] / 4000 < 0.78


def test_the_least_busy_for_its_weight_is_first() -> None:
    """R6."""
    tier = (target("a"), target("b", 3.0))
    assert set(firsts([tier], {"a": 1, "b": 2}, 50)) == {"b"}
    assert set(firsts([tier], {"a": 1, "b": 4}, 50)) == {"a"}
    assert set(firsts([tier], {"a": 0, "b": 1}, 50)) == {"a"}
    assert set(firsts([tier], {"a": 1, "b": 3}, 200)) == {"a", "b"}


def test_weight_nought_is_asked_only_after_the_others() -> None:
    tier = (target("never", 0.0), target("busy", 1.0))
    assert set(firsts([tier], {"busy": 100}, 50)) == {"busy"}


def test_a_tier_comes_after_the_one_before_it_however_busy_that_is() -> None:
    tiers = [(target("a"),), (target("b"), target("c"))]
    order = in_order(tiers, open_requests={"a": 1000}, is_available=lambda name: True, chance=random.Random(1).random)
    assert order[0].upstream == "a"
    assert {later.upstream for later in order[1:]} == {"b", "c"}


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 10)), max_size=4), max_size=4),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100)),
    st.sets(st.sampled_from("abcdef")),
    st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
)
def test_everyone_available_comes_once_tier_by_tier_and_nobody_else(
    weights: list[list[tuple[str, float]]], busy: dict[str, int], down: set[str], chance: float
) -> None:
    tiers = [tuple(target(name, weight) for name, weight in tier) for tier in weights]
    order = in_order(tiers, open_requests=busy, is_available=lambda name: name not in down, chance=lambda: chance)
    for tier in tiers:
        available = [one for one in tier if one.upstream not in down]
        part, order = order[: len(available)], order[len(available) :]
        assert Counter(part) == Counter(available)
    assert not order
