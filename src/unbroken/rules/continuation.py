"""What follows when an upstream dies in mid-answer: which ways to go on are honest, and which comes next.

Protocol K1-K6, FAULTS.md 10-14. What a way is on the wire is said elsewhere; every decision is here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import urlsplit

from unbroken.chat.conversation import Conversation, NamedTool, ToolUse
from unbroken.chat.counted import counted
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.said import Said
from unbroken.rules.retry import BUSY, LEAST_WAIT, GiveUp, RetryPolicy, backoff


class Tier(Enum):
    """The ways to go on, the best first."""

    EXACT = "exact"  # from the token ids that were sent
    SPLICED = "spliced"  # with the partial answer as the last message of the assistant
    MATCHED = "matched"  # asked again from the start, and what was sent is held back


class Prefill(Enum):
    """How a server is told to go on with the last message of the assistant instead of beginning one."""

    NONE = "none"  # it cannot, or nobody knows
    LAST_MESSAGE = "last_message"  # it does so by itself: llama.cpp, Ollama, Anthropic's older models
    CONTINUE_FINAL_MESSAGE = "continue_final_message"  # vLLM, SGLang: by default they begin a new turn
    PREFIX = "prefix"  # Mistral, DeepSeek's beta: the message is marked


@dataclass(frozen=True, slots=True)
class Capability:
    """What one upstream can do for an answer that was begun, with one model."""

    prefill: Prefill = Prefill.NONE
    #: Whether it gives and takes token ids.
    token_ids: bool = False
    #: Whether it may be asked again from the start.
    may_match: bool = True


#: What the setting `continuation` says; `auto` is the table below.
BY_SETTING: Mapping[str, Capability] = {
    "none": Capability(may_match=False),
    "match": Capability(),
    "last_message": Capability(Prefill.LAST_MESSAGE),
    "continue_final_message": Capability(Prefill.CONTINUE_FINAL_MESSAGE),
    "prefix": Capability(Prefill.PREFIX),
}

ENGINE = Capability(Prefill.LAST_MESSAGE, token_ids=True)

#: The version in the name of one of Anthropic's models, old names and new.
_CLAUDE = re.compile(
    r"claude-(?:v?(?P<major>\d)(?:[-.](?P<minor>\d))?(?!\d)"
    r"|(?:opus|sonnet|haiku)-(?P<new_major>\d{1,2})(?!\d)(?:[-.](?P<new_minor>\d{1,2})(?!\d))?"
    r"|instant-(?P<instant>\d))"
)

LAST_TO_TAKE_PREFILL = (4, 5)
"""Anthropic's models of later versions answer 400 to a last message of the assistant."""


def capability_of(setting: str, *, dialect: str, base_url: str, model: str, is_engine: bool) -> Capability:
    """What an upstream can do; `setting` overrides what is known of its address, all that is unknown is nothing."""
    if (given := BY_SETTING.get(setting)) is not None:
        # There is no word for a prefill in OpenAI's Responses, whatever the setting says.
        return Capability() if dialect == "openai-responses" and given.may_match else given
    if is_engine:
        return ENGINE
    address = urlsplit(base_url)
    host, path = address.hostname or "", address.path.rstrip("/")
    match dialect:
        case "anthropic-messages" if host == "api.anthropic.com" and _takes_prefill(model):
            return Capability(Prefill.LAST_MESSAGE)
        case "openai-chat" if host == "mistral.ai" or host.endswith(".mistral.ai"):
            return Capability(Prefill.PREFIX)
        case "openai-chat" if host == "api.deepseek.com" and path.startswith("/beta"):
            return Capability(Prefill.PREFIX)
    return Capability()


def _takes_prefill(model: str) -> bool:
    name = _CLAUDE.search(model.lower())
    if name is None:
        return False
    major = name["major"] or name["new_major"] or name["instant"]
    return (int(major), int(name["minor"] or name["new_minor"] or 0)) <= LAST_TO_TAKE_PREFILL


@dataclass(frozen=True, slots=True)
class Wishes:
    """What of a request decides how its answer may go on."""

    choices: int = 1
    has_log_probabilities: bool = False
    #: Its text keeps to a schema, a grammar or a choice: decoding that begins anew in its middle does not.
    is_constrained: bool = False
    is_reasoning: bool = False
    #: A tool must be called, which is a constraint as well.
    must_call: bool = False
    #: The server gives back what it was handed over.
    echoes: bool = False


#: Fields by which servers of OpenAI's dialects are told a grammar.
CONSTRAINTS = frozenset(
    {
        *("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("structured_outputs", "regex", "ebnf", "structural_tag"),
    }
)

_SAYS_NO = (b"null", b"false", b"[]", b'""')


def wishes_of(conversation: Conversation) -> Wishes:
    """What of a conversation decides how its answer may go on."""
    extras = {name for name, raw in conversation.extras.items() if bytes(raw).strip() not in _SAYS_NO}
    include = conversation.extras.get("include")
    reasoning = conversation.reasoning
    must_call = isinstance(conversation.tool_choice, NamedTool) or conversation.tool_choice is ToolUse.REQUIRED
    return Wishes(
        choices=conversation.choices,
        has_log_probabilities=conversation.top_logprobs is not None
        or "logprobs" in extras
        or (include is not None and b"logprobs" in bytes(include)),
        is_constrained=conversation.format is not None or not CONSTRAINTS.isdisjoint(extras),
        is_reasoning=(reasoning is not None and reasoning.enabled is not False and reasoning.effort != "none")
        or "thinking" in extras,
        must_call=must_call,
        echoes="echo" in extras,
    )


def tiers(said: Said, wishes: Wishes, capability: Capability) -> tuple[Tier, ...]:
    """The honest ways to go on with an answer at one upstream, in the order to try; none if there is none (K1, K2)."""
    if wishes.choices > 1 or any(said.choices) or wishes.has_log_probabilities or said.failed is not None:
        return ()
    is_plain = said.is_only_text and bool(said.text.strip())
    is_free = not (wishes.is_constrained or wishes.is_reasoning or wishes.must_call or wishes.echoes)
    honest = {
        Tier.EXACT: capability.token_ids and is_plain and is_free,
        Tier.SPLICED: capability.prefill is not Prefill.NONE and is_plain and is_free,
        Tier.MATCHED: capability.may_match,
    }
    return tuple(tier for tier in Tier if honest[tier])


@dataclass(frozen=True, slots=True)
class Way:
    """One upstream asked to go on in one way; `upstream` is its place among the candidates."""

    upstream: int
    tier: Tier


#: Faults after which nobody waits for the rest of the answer, or the rest would be refused as well.
UNCONTINUED = frozenset(
    {
        *(Fault.CLIENT_LEFT, Fault.SHUTTING_DOWN, Fault.TOTAL_TIMEOUT, Fault.INTERNAL, Fault.CONTENT_POLICY),
        *(Fault.CANCELLED, Fault.STORE_UNAVAILABLE),
    }
)

#: Faults of an upstream that is silent: it is not asked again while there is another way.
SILENT = frozenset(
    {Fault.HEADERS_TIMEOUT, Fault.FIRST_TOKEN_TIMEOUT, Fault.BETWEEN_TOKENS_TIMEOUT, Fault.CONNECT_TIMEOUT}
)

#: Faults of the way and not of the upstream: another way may do there (K6).
OF_THE_WAY = frozenset({Fault.BAD_REQUEST, Fault.UNTRANSLATABLE, Fault.CONTEXT_LENGTH, Fault.TOO_LARGE, Fault.DIFFERS})

#: Faults of a question: an answer that was begun cannot have them, whatever its upstream calls it.
NOT_OF_AN_ANSWER = (Fault.BAD_REQUEST, Fault.UNTRANSLATABLE, Fault.DIFFERS)

#: Faults that pass: the same way may do a little later.
PASSING = frozenset(
    {
        *(Fault.CONNECT, Fault.RESET, Fault.STALE, Fault.OVERLOADED, Fault.RATE_LIMITED, Fault.SERVER_ERROR),
        *(Fault.CUT, Fault.ERROR_EVENT, Fault.NO_UPSTREAM),
    }
)


def ways(honest: Sequence[tuple[Tier, ...]], *, died: int | None, fault: Fault) -> tuple[Way, ...]:
    """All ways to go on, in the order to try: the best tier first, wherever it is (K1).

    Args:
        honest: the honest tiers of each candidate, in the order of the candidates.
        died: which candidate's answer it was, None if nobody knows.
        fault: what it died of.

    The same words again come most likely from the same model on the same machine; where they need not, another
    upstream is likelier to be alive.
    """
    if fault in UNCONTINUED:
        return ()
    if fault is Fault.DIFFERS and died is not None:  # a splice that said again what was sent: there it can be matched
        honest = [
            tuple(tier for tier in found if at != died or tier is not Tier.SPLICED) for at, found in enumerate(honest)
        ]

    def rank(tier: Tier, at: int) -> bool:
        return (at == died) is (tier is Tier.SPLICED)

    found = [
        Way(at, tier)
        for tier in Tier
        for at in sorted(range(len(honest)), key=lambda at: rank(tier, at))
        if tier in honest[at]
    ]
    # One that fell silent is asked when nobody else is left to ask: rather late than an answer that fails.
    return tuple(sorted(found, key=lambda way: fault in SILENT and way.upstream == died))


@dataclass(frozen=True, slots=True)
class Ask:
    """Go on by `way` after so many seconds; `left` is what remains to be tried if that fails too."""

    way: Way
    left: tuple[Way, ...]
    seconds: float = 0.0


def next_step(
    failure: Failure, last: Way | None, left: Iterable[Way], policy: RetryPolicy, *, attempts: int, chance: float
) -> Ask | GiveUp:
    """What to do after `failure`: the same upstream in another way, another upstream, or give up (K6).

    Args:
        failure: how the answer broke off, or how the latest attempt to go on with it ended.
        last: the way of that attempt, None where it is the answer itself that broke off.
        left: the ways that have not been tried.
        policy: the bounds.
        attempts: attempts made so far in all, those before the first token among them.
        chance: a random number from 0 to 1, for the jitter.
    """
    if attempts >= policy.attempts or failure.fault in UNCONTINUED:
        return GiveUp()
    rest = list(left)
    if last is not None and failure.fault not in OF_THE_WAY:
        rest = [way for way in rest if way.upstream != last.upstream]  # what is broken is broken in every way
        if failure.fault in PASSING:
            rest.append(last)
    elif last is not None and last.tier is not Tier.MATCHED and failure.fault is Fault.DIFFERS:
        # It begins anew or says the same again: then there it can only be matched.
        rest.sort(key=lambda way: way.upstream != last.upstream)
    if not rest:
        return GiveUp()
    way, *others = rest
    if way != last:
        return Ask(way, tuple(others))
    waits = failure.retry_after or 0.0
    if waits > policy.retry_after_most:
        return GiveUp()
    least = LEAST_WAIT if failure.fault in BUSY else 0.0
    return Ask(way, tuple(others), max(waits, backoff(attempts, policy, chance), least))


def patience(step: Ask, policy: RetryPolicy) -> float | None:
    """Seconds to wait for an engine that is started again; None is as long as the answer may take (K6).

    With another upstream at hand nobody waits longer than for a backoff; the engine is asked again behind it.
    """
    has_other = any(way.upstream != step.way.upstream for way in step.left)
    return policy.backoff_most if has_other else None


#: Faults of attempts that no upstream has seen: a closed line, nobody there.
UNSEEN = (Fault.STALE, Fault.CONNECT)
MAX_UNSEEN = 3  # of one continuation that are no attempts; then there is nobody there


def counts_as_attempt(failures: Sequence[Failure]) -> bool:
    """Whether the latest of the failed attempts to go on was one: an upstream that was not there has not been asked."""
    latest = failures[-1]
    if latest.fault is Fault.UNTRANSLATABLE and not latest.status:
        return False  # there was no question to be asked; each way is tried once, so that is bounded
    unseen = sum(failure.fault in UNSEEN for failure in failures)
    return latest.fault not in UNSEEN or unseen > MAX_UNSEEN


def why_not(tried: Sequence[str], left: Sequence[Way], fault: Fault) -> str:
    """Why nobody went on with an answer that broke off with this fault, for the log; empty where nobody should have.

    Args:
        tried: what came of each way that was tried, in the words of `came_to`.
        left: the ways that were honest at first.
        fault: how it broke off.
    """
    if tried or fault in UNCONTINUED:
        return "; ".join(tried)
    return "no attempt was left" if left else "no way to go on with it is honest"


def came_to(way: Way, upstream: str, failure: Failure) -> str:
    """What came of an attempt to go on, in words of ours: those of the upstream may repeat the answer."""
    status = f" ({failure.status})" if failure.status else ""
    return f"{way.tier.value} at {upstream}: {failure.fault.value}{status}"


def told(broke_off: Failure, said: Said) -> Failure:
    """The failure to tell the caller of an answer that cannot go on: how it broke off, and how much there is (K1, K6).

    What upstreams said to attempts to go on is no part of it: the caller has asked for none.
    """
    words = len(said.text)
    delivered = f"{counted(said.pieces, 'piece')} of the answer"
    if words:
        delivered += f" with {counted(words, 'character')} of text"
    why = "" if broke_off.fault in UNCONTINUED else ", and no upstream could go on with it"
    fault = Fault.CUT if broke_off.fault in NOT_OF_AN_ANSWER else broke_off.fault
    message = f"{broke_off.message}; {delivered} had been delivered{why}"
    # What was a refusal is told as a cut; the words stay those of the refusal.
    return replace(
        broke_off, fault=fault, message=message, is_quoted=broke_off.is_quoted or fault is not broke_off.fault
    )
