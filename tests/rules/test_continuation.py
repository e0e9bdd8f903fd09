"""Which ways to go on with a broken answer are honest, and which is tried next."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from unbroken.chat.conversation import Conversation, JsonFormat, NamedTool, Reasoning, ToolUse
from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.said import said_in
from unbroken.rules.continuation import (
    ENGINE,
    OF_THE_WAY,
    UNCONTINUED,
    Ask,
    Capability,
    Prefill,
    Tier,
    Way,
    Wishes,
    capability_of,
    counts_as_attempt,
    next_step,
    patience,
    tiers,
    told,
    ways,
    wishes_of,
)
from unbroken.rules.retry import GiveUp, RetryPolicy

EXACT, SPLICED, MATCHED = Tier.EXACT, Tier.SPLICED, Tier.MATCHED
TEXT = [TextDelta("Once upon"), TextDelta(" a time")]
CALL = [ToolCallStarted(0, "call_1", "f"), ToolCallDelta(0, '{"a":')]

PLAIN, NOTHING = Capability(), Capability(may_match=False)
PREFILL = Capability(Prefill.LAST_MESSAGE)

#: What was said, what was wished, and what is honest on an engine that can do everything (K1, K2).
HONEST: dict[str, tuple[list[Event], Wishes, tuple[Tier, ...]]] = {
    "text": ([*TEXT], Wishes(), (EXACT, SPLICED, MATCHED)),
    "nothing but the role": ([], Wishes(), (MATCHED,)),
    "nothing but white space": ([TextDelta(" \n")], Wishes(), (MATCHED,)),
    "inside a tool call": ([*CALL], Wishes(), (MATCHED,)),
    "text and a tool call": ([*TEXT, *CALL], Wishes(), (MATCHED,)),
    "behind a tool call": ([*CALL, ToolCallDelta(0, "1}"), *TEXT], Wishes(), (MATCHED,)),
    "in reasoning": ([ReasoningDelta("Hm")], Wishes(), (MATCHED,)),
    "behind reasoning": ([ReasoningDelta("Hm"), *TEXT], Wishes(), (MATCHED,)),
    "behind sealed reasoning": ([ReasoningSealed("x"), *TEXT], Wishes(), (MATCHED,)),
    "a refusal": ([RefusalDelta("I will not")], Wishes(), (MATCHED,)),
    "text with a source": ([*TEXT, Cited(Raw(b"{}"))], Wishes(), (MATCHED,)),
    "text where reasoning was wished": ([*TEXT], Wishes(is_reasoning=True), (MATCHED,)),
    "a JSON schema": ([TextDelta('{"a"')], Wishes(is_constrained=True), (MATCHED,)),
    "a tool that must be called": ([*TEXT], Wishes(must_call=True), (MATCHED,)),
    "a server that echoes": ([*TEXT], Wishes(echoes=True), (MATCHED,)),
    "several choices": ([*TEXT], Wishes(choices=2), ()),
    "several choices that were not asked for": ([*TEXT, TextDelta("b", 1)], Wishes(), ()),
    "log probabilities": ([*TEXT], Wishes(has_log_probabilities=True), ()),
    "what has failed for its reader": ([*TEXT, Failed("it broke")], Wishes(), ()),
}


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_tiers_of_an_answer(name: str) -> None:
    """K1, K2."""
    events, wishes, expected = HONEST[name]
    said = said_in(events)
    assert tiers(said, wishes, ENGINE) == expected
    assert tiers(said, wishes, PREFILL) == tuple(tier for tier in expected if tier is not EXACT)
    assert tiers(said, wishes, PLAIN) == tuple(tier for tier in expected if tier is MATCHED)
    assert tiers(said, wishes, NOTHING) == ()


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (Conversation(()), Wishes()),
        (Conversation((), choices=3), Wishes(choices=3)),
        (Conversation((), top_logprobs=0), Wishes(has_log_probabilities=True)),
        (Conversation((), extras={"logprobs": Raw(b"true")}), Wishes(has_log_probabilities=True)),
        (Conversation((), extras={"logprobs": Raw(b"false")}), Wishes()),
        (
            Conversation((), extras={"include": Raw(b'["message.output_text.logprobs"]')}),
            Wishes(has_log_probabilities=True),
        ),
        (Conversation((), extras={"include": Raw(b'["reasoning.encrypted_content"]')}), Wishes()),
        (Conversation((), format=JsonFormat()), Wishes(is_constrained=True)),
        (Conversation((), extras={"guided_regex": Raw(b'"a+"')}), Wishes(is_constrained=True)),
        (Conversation((), extras={"grammar": Raw(b'""')}), Wishes()),
        (Conversation((), reasoning=Reasoning(effort="low")), Wishes(is_reasoning=True)),
        (Conversation((), reasoning=Reasoning(budget=1024)), Wishes(is_reasoning=True)),
        (Conversation((), reasoning=Reasoning(enabled=False)), Wishes()),
        (Conversation((), reasoning=Reasoning(effort="none")), Wishes()),
        (Conversation((), tool_choice=ToolUse.REQUIRED), Wishes(must_call=True)),
        (Conversation((), tool_choice=NamedTool("f")), Wishes(must_call=True)),
        (Conversation((), tool_choice=ToolUse.AUTO), Wishes()),
        (Conversation((), extras={"echo": Raw(b"true")}), Wishes(echoes=True)),
    ],
)
def test_what_of_a_request_decides(conversation: Conversation, expected: Wishes) -> None:
    assert wishes_of(conversation) == expected


ANTHROPIC, OPENAI = "https://api.anthropic.com/v1", "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("setting", "dialect", "base_url", "model", "expected"),
    [
        ("auto", "openai-chat", OPENAI, "gpt-5", Prefill.NONE),
        ("auto", "openai-responses", OPENAI, "gpt-5", Prefill.NONE),
        ("auto", "openai-chat", "http://127.0.0.1:8000/v1", "llama", Prefill.NONE),
        ("auto", "openai-chat", "https://api.mistral.ai/v1", "mistral-large", Prefill.PREFIX),
        ("auto", "openai-chat", "https://mistral.ai.example/v1", "mistral-large", Prefill.NONE),
        ("auto", "openai-chat", "https://notmistral.ai/v1", "mistral-large", Prefill.NONE),
        ("auto", "openai-chat", "https://api.deepseek.com/beta", "deepseek-chat", Prefill.PREFIX),
        ("auto", "openai-chat", "https://api.deepseek.com/beta/v1", "deepseek-chat", Prefill.PREFIX),
        ("auto", "openai-chat", "https://api.deepseek.com/v1", "deepseek-chat", Prefill.NONE),
        ("auto", "anthropic-messages", "http://127.0.0.1:8000/v1", "claude-3-opus", Prefill.NONE),
        ("auto", "openai-chat", ANTHROPIC, "claude-3-opus", Prefill.NONE),
        ("none", "openai-chat", "https://api.mistral.ai/v1", "mistral-large", Prefill.NONE),
        ("match", "openai-chat", "https://api.mistral.ai/v1", "mistral-large", Prefill.NONE),
        ("last_message", "openai-chat", "http://127.0.0.1:11434/v1", "llama", Prefill.LAST_MESSAGE),
        ("continue_final_message", "openai-chat", "http://vllm/v1", "llama", Prefill.CONTINUE_FINAL_MESSAGE),
        ("prefix", "openai-chat", "http://somewhere/v1", "m", Prefill.PREFIX),
        ("last_message", "openai-responses", OPENAI, "gpt-5", Prefill.NONE),
    ],
)
def test_what_an_upstream_can_do(setting: str, dialect: str, base_url: str, model: str, expected: Prefill) -> None:
    found = capability_of(setting, dialect=dialect, base_url=base_url, model=model, is_engine=False)
    assert found == Capability(expected, may_match=setting != "none")


@pytest.mark.parametrize(
    ("model", "takes_it"),
    [
        ("claude-2.1", True),
        ("claude-instant-1.2", True),
        ("claude-3-opus-20240229", True),
        ("claude-3-5-sonnet-latest", True),
        ("claude-3-7-sonnet-20250219", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-0", True),
        ("claude-opus-4-1-20250805", True),
        ("claude-haiku-4-5-20251001", True),
        ("claude-sonnet-4-5", True),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-10", False),
        ("claude-opus-5", False),
        ("claude-opus-5-20270101", False),
        ("claude-mythos-preview", False),
        ("gpt-5", False),
    ],
)
def test_anthropics_models_up_to_4_5_take_a_partial_answer(model: str, takes_it: bool) -> None:
    found = capability_of("auto", dialect="anthropic-messages", base_url=ANTHROPIC, model=model, is_engine=False)
    assert found.prefill is (Prefill.LAST_MESSAGE if takes_it else Prefill.NONE)


def test_the_engine_can_do_everything_unless_it_is_told_not_to() -> None:
    def engine(setting: str) -> Capability:
        return capability_of(setting, dialect="openai-chat", base_url="", model="m", is_engine=True)

    assert engine("auto") == Capability(Prefill.LAST_MESSAGE, token_ids=True)
    assert engine("match") == Capability()
    assert engine("none") == Capability(may_match=False)


# The order.


def test_the_best_tier_comes_first_wherever_it_is() -> None:
    """K1."""
    honest = [(MATCHED,), (SPLICED, MATCHED), (EXACT, SPLICED, MATCHED)]
    assert ways(honest, died=0, fault=Fault.CUT) == (
        Way(2, EXACT),
        Way(1, SPLICED),
        Way(2, SPLICED),
        Way(0, MATCHED),
        Way(1, MATCHED),
        Way(2, MATCHED),
    )


def test_what_has_died_is_spliced_last_and_matched_first() -> None:
    honest = [(SPLICED, MATCHED), (SPLICED, MATCHED)]
    spliced, matched = (Way(1, SPLICED), Way(0, SPLICED)), (Way(0, MATCHED), Way(1, MATCHED))
    assert ways(honest, died=0, fault=Fault.CUT) == (*spliced, *matched)


def test_a_silent_upstream_is_not_asked_again_while_there_is_another() -> None:
    """FAULTS.md 9: but rather late than an answer that fails."""
    honest = [(SPLICED, MATCHED), (MATCHED,)]
    late = (Way(0, SPLICED), Way(0, MATCHED))
    assert ways(honest, died=0, fault=Fault.BETWEEN_TOKENS_TIMEOUT) == (Way(1, MATCHED), *late)
    alone = ways(honest[:1], died=0, fault=Fault.BETWEEN_TOKENS_TIMEOUT)
    assert alone == (Way(0, SPLICED), Way(0, MATCHED))


@pytest.mark.parametrize("fault", sorted(UNCONTINUED, key=lambda fault: fault.value))
def test_what_nobody_waits_for_is_not_continued(fault: Fault) -> None:
    assert ways([(MATCHED,)], died=0, fault=fault) == ()
    failure, last = Failure(fault, "it is over"), Way(0, SPLICED)
    assert _next(failure, last, (Way(0, MATCHED),)) == GiveUp()


# The next step.

POLICY = RetryPolicy(attempts=4)


def _next(
    failure: Failure, last: Way | None, left: tuple[Way, ...], *, attempts: int = 2, policy: RetryPolicy = POLICY
) -> Ask | GiveUp:
    return next_step(failure, last, left, policy, attempts=attempts, chance=0.5)


def test_the_first_way_is_taken_at_once() -> None:
    left = (Way(1, SPLICED), Way(0, MATCHED))
    assert _next(Failure(Fault.CUT, "cut"), None, left) == Ask(left[0], left[1:])


@pytest.mark.parametrize("fault", sorted(OF_THE_WAY, key=lambda fault: fault.value))
def test_a_refusal_of_one_way_leaves_the_others_there(fault: Fault) -> None:
    """K6, FAULTS.md 11."""
    left = (Way(0, MATCHED), Way(1, MATCHED))
    assert _next(Failure(fault, "no"), Way(0, SPLICED), left) == Ask(left[0], left[1:])


def test_who_begins_anew_is_matched_before_others_are_asked() -> None:
    left = (Way(1, SPLICED), Way(0, MATCHED))
    assert _next(Failure(Fault.DIFFERS, "a new turn"), Way(0, SPLICED), left) == Ask(left[1], left[:1])


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.MALFORMED, Fault.HEADERS_TIMEOUT, Fault.MODEL_NOT_FOUND])
def test_what_is_broken_is_not_tried_in_another_way(fault: Fault) -> None:
    left = (Way(0, MATCHED), Way(1, MATCHED))
    assert _next(Failure(fault, "broken"), Way(0, SPLICED), left) == Ask(Way(1, MATCHED), ())
    assert _next(Failure(fault, "broken"), Way(0, SPLICED), left[:1]) == GiveUp()


@pytest.mark.parametrize("fault", [Fault.CONNECT, Fault.RESET, Fault.OVERLOADED, Fault.CUT])
def test_what_passes_is_tried_again_when_the_others_have_been(fault: Fault) -> None:
    """An engine that is starting again refuses connections for a while."""
    failure, last = Failure(fault, "not now"), Way(0, EXACT)
    assert _next(failure, last, (Way(0, MATCHED), Way(1, MATCHED))) == Ask(Way(1, MATCHED), (last,))
    again = _next(failure, last, ())
    assert isinstance(again, Ask)
    assert (again.way, again.left) == (last, ())
    assert again.seconds > 0


def test_a_wait_that_an_upstream_asks_for_is_kept_within_its_bound() -> None:
    failure, last = Failure(Fault.RATE_LIMITED, "wait", retry_after=3.0), Way(0, MATCHED)
    assert _next(failure, last, ()) == Ask(last, (), 3.0)
    assert _next(replace(failure, retry_after=60.0), last, ()) == GiveUp()


def test_attempts_are_bounded_in_all() -> None:
    """K6."""
    assert _next(Failure(Fault.CUT, "cut"), None, (Way(0, MATCHED),), attempts=4) == GiveUp()


@given(st.lists(st.sampled_from([fault for fault in Fault if fault not in UNCONTINUED]), min_size=30, max_size=30))
def test_any_faults_end_within_the_bound(faults: list[Fault]) -> None:
    """K6."""
    left = ways([(EXACT, SPLICED, MATCHED)] * 3, died=1, fault=Fault.CUT)
    last, attempts = None, 1
    for fault in faults:
        step = next_step(Failure(fault, "x"), last, left, POLICY, attempts=attempts, chance=0.5)
        if isinstance(step, GiveUp):
            break
        last, left = step.way, step.left
        attempts += 1
    assert attempts <= POLICY.attempts


# What the caller is told.


def test_the_caller_is_told_how_much_was_delivered() -> None:
    """K1."""
    failure = told(Failure(Fault.CUT, "stream ended without finish_reason after 2 chunks"), said_in(TEXT))
    assert failure.fault is Fault.CUT
    assert failure.message == (
        "stream ended without finish_reason after 2 chunks; 2 pieces of the answer with 16 characters of text"
        " had been delivered, and no upstream could go on with it"
    )


def test_where_nobody_was_asked_to_go_on_nobody_is_said_to_have_been() -> None:
    failure = told(Failure(Fault.CONTENT_POLICY, "not allowed"), said_in(TEXT[:1]))
    assert failure.message == "not allowed; 1 piece of the answer with 9 characters of text had been delivered"


def test_a_refusal_is_never_the_callers_error() -> None:
    """K6, FAULTS.md 11: not even where it is what the answer broke off with."""
    assert told(Failure(Fault.BAD_REQUEST, "no prefill", 400), said_in(TEXT)).fault is Fault.CUT


def test_an_answer_that_has_finished_is_known_to_have() -> None:
    said = said_in([*TEXT, Finished("stop")])
    assert said.finished == Finished("stop")
    assert (said.text, said.pieces) == ("Once upon a time", 2)


def test_an_engine_is_waited_for_as_long_as_it_takes_unless_another_could_go_on() -> None:
    """K6."""
    alone = Ask(Way(0, EXACT), (Way(0, SPLICED), Way(0, MATCHED)))
    assert patience(alone, POLICY) is None
    assert patience(replace(alone, left=(*alone.left, Way(1, MATCHED))), POLICY) == POLICY.backoff_most


def test_upstream_that_was_not_there_has_not_been_asked_but_not_for_ever() -> None:
    refused, cut = Failure(Fault.CONNECT, "refused"), Failure(Fault.CUT, "cut")
    assert [counts_as_attempt([refused] * n) for n in range(1, 5)] == [False, False, False, True]
    assert counts_as_attempt([refused, cut])
    assert not counts_as_attempt([cut, refused])
