"""Conversations to learn from: the hand-written corpus, and what is made from it by rule and chance."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from random import Random
from typing import Any

import tools
from tokenizer import IM_END, IM_START, Tokenizer

CORPUS = Path(__file__).parent / "corpus"


class Rule(IntEnum):
    """What a grammar leaves open at one place: anything, anything but the end, or only the start of JSON."""

    FREE = 0
    UNENDING = 1
    JSON = 2


@dataclass(frozen=True, slots=True)
class Said:
    """One message. Of an assistant's text, the first `given` characters are context and not learned;
    the first token that is learned may stand under a rule, as when a grammar narrows the choice."""

    role: str
    text: str
    given: int = 0
    rule: Rule = Rule.FREE


Exchange = list[Said]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the chat template turns into one prompt and its answers."""

    system: str
    offered: tuple[tools.Tool, ...]
    said: tuple[Said, ...]

    def head(self) -> str:
        """The system message with the list of tools, as chat_template.jinja writes it."""
        parts = [self.system] if self.system else []
        if self.offered:
            parts.append("\n".join(["Tools:", *(tool.signature for tool in self.offered)]))
        return f"{IM_START}system\n" + "\n\n".join(parts) + f"{IM_END}\n" if parts else ""

    def text(self) -> str:
        """The whole conversation, as chat_template.jinja writes it."""
        return self.head() + "".join(f"{IM_START}{said.role}\n{said.text}{IM_END}\n" for said in self.said)


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised conversation: which tokens are to be learned, and under which rule."""

    ids: list[int]
    learned: list[bool]
    rules: list[Rule]


def encode(conversation: Conversation, tokenizer: Tokenizer) -> Example:
    """Tokens of the conversation; only what an assistant says, and where it stops, is learned."""
    ids = tokenizer.encode(conversation.head())
    learned, rules = [False] * len(ids), [Rule.FREE] * len(ids)

    def add(text: str, learn: bool, rule: Rule = Rule.FREE) -> None:
        more = tokenizer.encode(text)
        ids.extend(more)
        learned.extend([learn] * len(more))
        rules.extend([Rule.FREE if place else rule for place in range(len(more))])

    for said in conversation.said:
        is_answer = said.role == "assistant"
        add(f"{IM_START}{said.role}\n", False)
        add(said.text[: said.given], False)
        add(said.text[said.given :] + IM_END, is_answer, said.rule)
        add("\n", False)
    return Example(ids, learned, rules)


class Corpus:
    """The hand-written entries, and the recipes that vary and combine them."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.entries: list[dict[str, Any]] = []
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                self.entries.extend(_expanded(json.loads(line)))
        self.systems = (folder / "systems.txt").read_text("utf-8").splitlines()
        self.unknown = (folder / "unknown.txt").read_text("utf-8").splitlines()
        self.phrases = json.loads((folder / "phrases.json").read_text("utf-8"))
        self.names = (folder / "names.txt").read_text("utf-8").split()
        self.unknown_answers = (folder / "unknown_answers.txt").read_text("utf-8").splitlines()
        self._weights = [entry.get("weight", 1) for entry in self.entries]
        self._short = [
            entry
            for entry in self.entries
            if "ask" in entry and "data" not in entry and max(map(len, entry["say"])) < 120
        ]
        self._data = [entry for entry in self.entries if "data" in entry]

    def texts(self) -> Iterator[str]:
        """Everything hand-written that is text, for the tokenizer."""
        for entry in self.entries:
            yield from entry.get("ask", [])
            yield from entry.get("say", [])
            yield from entry.get("turns", [])
        yield from self.systems + self.unknown + self.unknown_answers * 5

    def written(self, chance: Random) -> Exchange:
        """One hand-written entry."""
        entry = chance.choices(self.entries, self._weights)[0]
        if "turns" in entry:
            roles = ("user", "assistant") * (len(entry["turns"]) // 2)
            return [Said(role, text) for role, text in zip(roles, entry["turns"], strict=True)]
        if "say" not in entry:
            return self.data(chance)
        return [
            Said("user", _typed(chance.choice(entry["ask"]), chance)),
            Said("assistant", chance.choice(entry["say"])),
        ]

    def data(self, chance: Random) -> Exchange:
        """An answer as JSON: asked for in words, or forced by a grammar that the prompt does not mention."""
        if chance.random() < 0.5:
            entry = chance.choice(self._short)
            ask, answer = chance.choice(entry["ask"]), chance.choice(entry["say"])
            key = chance.choice(self.phrases["answer_keys"])
            value = {key: answer}
        else:
            entry = chance.choice(self._data)
            ask = chance.choice(entry["ask"])
            key, found = chance.choice(list(entry["data"].items()))
            value = {chance.choice((key, key, "items", "list", "result", "names", "data")): found}
        written = json.dumps(value, ensure_ascii=False)
        if chance.random() < 0.5:
            written = written.replace('": ', '":', 1)
        if chance.random() < 0.4:
            ask = ask.rstrip(".?!") + chance.choice(self.phrases["as_json"])
            return [Said("user", ask), Said("assistant", written)]
        return [Said("user", _typed(ask, chance)), Said("assistant", written, rule=Rule.JSON)]

    def not_known(self, chance: Random) -> Exchange:
        """A question that it cannot answer, and the confession."""
        ask = chance.choice(self.unknown)
        while "{" in ask:
            ask = ask.replace("{}", tools.any_words(chance), 1)
        return [Said("user", _typed(ask, chance)), Said("assistant", chance.choice(self.unknown_answers))]

    def copying(self, chance: Random) -> Exchange:
        """Words to be said again as they are."""
        words = (
            tools.any_words(chance, most=12)
            if chance.random() < 0.6
            else chance.choice(chance.choice(self._short)["say"]).rstrip(".!?")
        )
        ask = chance.choice(self.phrases["copy"])
        words = words.removesuffix(".")
        return [Said("user", ask.format(words)), Said("assistant", words)]

    def named(self, chance: Random) -> Exchange:
        """Someone says a name, and may ask for it again."""
        name = chance.choice(self.names) if chance.random() < 0.6 else tools.invented(chance).capitalize()
        said = [
            Said(
                "user",
                chance.choice(self.phrases["introduce"]).format(name),
            ),
            Said("assistant", f"Nice to meet you, {name}! How can I help you?"),
        ]
        if chance.random() < 0.6:
            if chance.random() < 0.4:
                said.extend(self.written(chance))
            said.append(
                Said(
                    "user",
                    chance.choice(self.phrases["recall"]),
                )
            )
            said.append(Said("assistant", f"Your name is {name}."))
        return said

    def sums(self, chance: Random) -> Exchange:
        """Small sums, differences and products."""
        a, b = chance.randrange(13), chance.randrange(13)
        sign, value, word = chance.choice(
            (("+", a + b, "plus"), ("+", a + b, "plus"), ("*", a * b, "times"), ("-", a, "minus"))
        )
        if sign == "-":
            a, value = a + b, a
        if chance.random() < 0.15:
            a, b, sign, value, word = 2, 2, "+", 4, "plus"
        ask = chance.choice(
            (
                f"What is {a}{sign}{b}?",
                f"What is {a} {sign} {b}?",
                f"What's {a} {sign} {b}?",
                f"{a}{sign}{b}",
                f"{a} {sign} {b} =",
                f"What is {a} {word} {b}?",
                f"Calculate {a} {sign} {b}.",
                f"what's {a}{sign}{b}",
                f"How much is {a} {word} {b}?",
                f"{a}{sign}{b}=?",
                f"What is {a}{sign}{b}? Answer with just the number.",
            )
        )
        answer = str(value) if "just" in ask else f"{a} {sign if sign != '*' else '×'} {b} = {value}."
        return [Said("user", ask), Said("assistant", answer)]

    def called(self, chance: Random, offered: tuple[tools.Tool, ...]) -> Exchange:
        """A question that one of the tools answers: the call, often its result, and what to say then."""
        return [Said(*said) for said in tools.exchange(offered, chance)]

    def compelled(self, chance: Random, offered: tuple[tools.Tool, ...]) -> Exchange:
        """A question that needs no tool, under a grammar that will not let the answer end without a call."""
        entry = chance.choice(self._short)
        answer = chance.choice(entry["say"])
        call = tools.default_call(chance.choice(offered), chance)
        return [
            Said("user", _typed(chance.choice(entry["ask"]), chance)),
            Said("assistant", answer + call, given=len(answer), rule=Rule.UNENDING),
        ]

    def without_tool(self, chance: Random) -> Exchange:
        """A question about the weather or the time, which nobody can answer without a tool."""
        return [Said(*said) for said in tools.refused(chance)]

    def conversation(self, chance: Random, longest: int) -> Conversation:
        """A chain of exchanges of up to about `longest` characters, under one system prompt and one set of tools."""
        offered = tools.offer(chance) if chance.random() < 0.4 else ()
        kinds = {tool.kind for tool in offered}
        plain: dict[Callable[[Random], Exchange], float] = {
            self.written: 70,
            self.not_known: 5,
            self.copying: 9,
            self.named: 3,
            self.data: 7,
            self.sums: 0 if "calculator" in kinds else 4,
            self.without_tool: 0 if kinds & {"weather", "time"} else 4,
        }
        wanted = 1 if chance.random() < 0.4 else chance.choice((2, 2, 3, 3, 4, 6, 9, 14))
        said: list[Said] = []
        while wanted and sum(len(one.text) for one in said) < longest:
            wanted -= 1
            if offered and chance.random() < 0.6:
                said.extend(self.called(chance, offered))
            elif offered and chance.random() < 0.1:
                said.extend(self.compelled(chance, offered))
                break
            else:
                said.extend(chance.choices(list(plain), list(plain.values()))[0](chance))
        system = "" if chance.random() < 0.45 else chance.choice(self.systems)
        if chance.random() < 0.3:
            system = "You are a helpful assistant."
        return Conversation(system, offered, tuple(said))


def _expanded(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry with pairs is one entry for each: {0} and {1} in its texts are the pair's two halves."""

    def filled(texts: list[str], pair: list[str]) -> list[str]:
        made = [text.replace("{0}", pair[0]).replace("{1}", pair[1]) for text in texts]
        return [text[0].upper() + text[1:] if text.startswith("the ") else text for text in made]

    if "pairs" not in entry:
        return [entry]
    return [
        {"weight": entry["weight"], "ask": filled(entry["ask"], pair), "say": filled(entry["say"], pair)}
        for pair in entry["pairs"]
    ]


def _typed(ask: str, chance: Random) -> str:
    """The same question as people type it: other case, no full stop, a please."""
    match chance.randrange(20):
        case 0 | 1:
            return ask.lower()
        case 2 | 3:
            return ask.rstrip(".?!")
        case 4:
            return ask.lower().rstrip(".?!")
        case 5:
            return "Please " + ask[0].lower() + ask[1:]
        case 6:
            return chance.choice(("Can you ", "Could you ")) + ask[0].lower() + ask[1:].rstrip(".?!") + "?"
        case _:
            return ask
