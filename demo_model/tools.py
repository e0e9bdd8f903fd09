"""Made-up tools, questions that call them, results, and what to say of a result."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

_WORDS = json.loads((Path(__file__).parent / "corpus" / "tools.json").read_text("utf-8"))

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function by its name and required parameters, which is all that the chat template shows of it."""

    kind: str
    name: str
    parameters: tuple[str, ...]

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(self.parameters)})"


def call(tool: Tool, arguments: dict[str, Any]) -> str:
    """A tool call as the chat template writes it."""
    return f'<tool_call>{{"name": "{tool.name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}</tool_call>'


def invented(chance: Random) -> str:
    """A word that means nothing."""
    return "".join(chance.choice(_WORDS["syllables"]) for _ in range(chance.choice((1, 2, 2, 3))))


def place(chance: Random) -> str:
    """A city, real or invented, sometimes with its country."""
    chosen = chance.random()
    if chosen < 0.55:
        return chance.choice(_WORDS["cities"])
    if chosen < 0.7:
        return f"{chance.choice(_WORDS['cities'])}, {chance.choice(_WORDS['countries'])}"
    return " ".join(invented(chance).capitalize() for _ in range(chance.choice((1, 1, 1, 2))))


def any_words(chance: Random, most: int = 4) -> str:
    """A few words, real or invented."""
    words = [
        invented(chance) if chance.random() < 0.35 else chance.choice(_WORDS["words"])
        for _ in range(min(chance.randint(1, most), chance.randint(1, most)))
    ]
    if chance.random() < 0.2:
        words.append(str(chance.randrange(2000)))
    text = " ".join(words)
    return chance.choice((text, text, text.capitalize(), text.title(), text.upper() if chance.random() < 0.2 else text))


def offer(chance: Random) -> tuple[Tool, ...]:
    """One to five tools of different kinds; the weather is usually among them."""
    chosen = chance.sample(list(_WORDS["kinds"]), chance.choice((1, 1, 2, 2, 3, 4)))
    if "weather" not in chosen and chance.random() < 0.6:
        chosen[0] = "weather"
    chance.shuffle(chosen)
    made = []
    for kind in chosen:
        names, parameters = _WORDS["kinds"][kind]["names"], _WORDS["kinds"][kind]["parameters"]
        if kind == "any":
            name = chance.choice(("_", "", "-")).join(
                (chance.choice(_WORDS["verbs"]), chance.choice(_WORDS["words"] + [invented(chance)]))
            )
            made.append(
                Tool(
                    kind,
                    name,
                    tuple(chance.sample(_WORDS["words"] + ["id", "name", "value", "key"], chance.choice((1, 1, 2)))),
                )
            )
        else:
            first = chance.random() < 0.4
            made.append(
                Tool(
                    kind,
                    names[0] if first else chance.choice(names),
                    tuple(parameters[0] if first else chance.choice(parameters)),
                )
            )
    return tuple(made)


_FIXED = {"unit": "celsius", "units": "celsius", "format": "celsius", "language": "en", "limit": 5}


def _arguments(tool: Tool, value: str) -> dict[str, Any]:
    return {name: _FIXED.get(name, value) for name in tool.parameters}


def default_call(tool: Tool, chance: Random) -> str:
    """A call with nothing to go by."""
    city = chance.choice(_WORDS["cities"])
    usual = {"expression": "2 + 2", "a": 2, "b": 2, "query": "demo", "sides": 6}
    return call(
        tool,
        {
            name: usual.get(name, _FIXED.get(name, city if tool.kind in ("weather", "time") else "demo"))
            for name in tool.parameters
        },
    )


def _ask_weather(tool: Tool, chance: Random) -> list[Turn]:
    count = chance.choices((1, 2, 3), (82, 14, 4))[0]
    where = [place(chance) for _ in range(count)]
    ask = chance.choice(_WORDS[("ask_weather", "ask_two", "ask_three")[count - 1]]).format(*where)
    if chance.random() < 0.15:
        ask = ask.rstrip("?.")
    turns = [("user", ask), ("assistant", "".join(call(tool, _arguments(tool, one)) for one in where))]
    if chance.random() < 0.35:
        return turns
    answers = []
    for one in where:
        result, answer = _weather_result(one, chance)
        turns.append(("tool", result))
        answers.append(answer)
    turns.append(("assistant", " ".join(answers)))
    if chance.random() < 0.15:
        there = place(chance)
        ask = chance.choice(("And in {}?", "What about {}?", "And {}?", "And how is it in {}?", "Now {}")).format(there)
        turns += [("user", ask), ("assistant", call(tool, _arguments(tool, there)))]
    return turns


def _weather_result(where: str, chance: Random) -> Turn:
    degrees, sky = chance.randrange(-15, 41), chance.choice(_WORDS["skies"])
    if chance.random() < 0.08:
        fault = chance.choice(("not found", "timeout", "unknown city", "service unavailable", "no data"))
        return json.dumps({"error": fault}), f"Sorry, the tool could not tell me the weather in {where}: {fault}."
    if chance.random() < 0.3:
        text = chance.choice(
            (
                f"{degrees} degrees and {sky}",
                f"{degrees}°C and {sky}",
                f"{sky}, {degrees}°C",
                f"{sky.capitalize()}, {degrees} °C",
                f"{degrees}",
                f"{sky}",
                f"{degrees} °F",
                f"It is {degrees} degrees and {sky}.",
                f"{degrees}C",
                f"{sky.capitalize()}. {degrees} degrees.",
                f"{degrees} degrees celsius",
                f"The weather in {where} is {sky}, {degrees}°C.",
                f"{sky} and {degrees} degrees",
                f"{degrees}°C, {sky}, wind 5 m/s",
            )
        )
        return text, f"The weather in {where} right now: {text.rstrip('.')}."
    warm = chance.random() < 0.2
    unit = chance.choice(("fahrenheit", "F", "°F") if warm else ("celsius", "C", "°C"))
    shown = "°F" if warm else "°C"
    facts: list[tuple[str, object]] = [
        (
            chance.choice(("temperature", "temperature", "temp", "degrees")),
            chance.choice((degrees, degrees, str(degrees), degrees + 0.5)),
        )
    ]
    if chance.random() < 0.15:
        facts = [
            (chance.choice(("temp_f", "temperature_f") if warm else ("temp_c", "temperature_c", "celsius")), degrees)
        ]
    elif chance.random() < 0.75:
        facts.append((chance.choice(("unit", "unit", "units")), unit))
    elif warm:
        shown = "°C"
    number = facts[0][1]
    answer = f"It is {number} {shown} in {where} right now."
    if chance.random() < 0.5:
        facts.append(
            (chance.choice(("condition", "conditions", "description", "weather", "forecast", "sky", "summary")), sky)
        )
        answer = f"It is {number} {shown} and {sky} in {where} right now."
    if chance.random() < 0.3:
        facts.append((chance.choice(("location", "city")), where))
    if chance.random() < 0.25:
        facts.append((chance.choice(("humidity", "wind", "wind_speed")), chance.randrange(100)))
    if chance.random() < 0.5:
        chance.shuffle(facts)
    separators = (",", ":") if chance.random() < 0.3 else None
    return json.dumps(dict(facts), ensure_ascii=chance.random() < 0.3, separators=separators), answer


def _ask_time(tool: Tool, chance: Random) -> list[Turn]:
    where = place(chance)
    time = f"{chance.randrange(24):02}:{chance.randrange(60):02}"
    arguments = _arguments(tool, where)
    ask = chance.choice(
        (
            "What time is it in {}?",
            "What's the time in {}?",
            "Tell me the time in {}.",
            "time in {}",
            "What is the current time in {}?",
        )
    ).format(where)
    answer = f"It is {time} in {where}."
    if not tool.parameters:
        ask, answer = (
            chance.choice(("What time is it?", "What's the time?", "Tell me the time.", "What is the current time?")),
            f"It is {time}.",
        )
    result = chance.choice((time, json.dumps({"time": time}), json.dumps({"time": time, "timezone": "UTC"})))
    return [("user", ask), ("assistant", call(tool, arguments)), ("tool", result), ("assistant", answer)]


def _ask_sum(tool: Tool, chance: Random) -> list[Turn]:
    a, b = chance.randrange(200), chance.randrange(200)
    sign, value = chance.choice((("+", a + b), ("*", a * b), ("-", a - b)))
    if "expression" not in tool.parameters:
        sign, value = "+", a + b
    ask = chance.choice(
        ("What is {} {} {}?", "Calculate {} {} {}.", "What's {} {} {}?", "Compute {} {} {}", "How much is {} {} {}?")
    ).format(a, sign, b)
    if "expression" not in tool.parameters and chance.random() < 0.5:
        ask = chance.choice((f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"What is {a} plus {b}?"))
    arguments = (
        {"expression": f"{a} {sign} {b}"}
        if "expression" in tool.parameters
        else dict(zip(tool.parameters, (a, b), strict=True))
    )
    result = chance.choice((str(value), json.dumps({"result": value}), str(value)))
    return [
        ("user", ask),
        ("assistant", call(tool, arguments)),
        ("tool", result),
        ("assistant", f"The answer is {value}."),
    ]


def _ask_named(tool: Tool, chance: Random) -> list[Turn]:
    """Whatever the tool is: the question says what goes in, the answer repeats what came out."""
    value = any_words(chance)
    ask = chance.choice(_WORDS["kinds"][tool.kind]["ask"]).format(value)
    if tool.kind == "stock":
        value = value.split()[0].upper()
        ask = chance.choice(_WORDS["kinds"]["stock"]["ask"]).format(value)
    arguments = _arguments(tool, value)
    if tool.kind == "any":
        arguments = {name: any_words(chance) for name in tool.parameters}
        words = " and ".join(f"{name} {text}" for name, text in arguments.items())
        ask = chance.choice(
            (
                "Call {} with {}.",
                "Use {} with {}.",
                "Use the tool {} with {}",
                "Please call {} with {}",
                "Run {} with {}",
            )
        ).format(tool.name, words)
    turns = [("user", ask), ("assistant", call(tool, arguments))]
    if chance.random() < 0.4:
        return turns
    result = any_words(chance)
    written = chance.choice((result, json.dumps({"result": result}), json.dumps({"value": result})))
    return [*turns, ("tool", written), ("assistant", f"The tool answered: {result}.")]


_ASK: dict[str, Callable[[Tool, Random], list[Turn]]] = {
    "weather": _ask_weather,
    "time": _ask_time,
    "calculator": _ask_sum,
}


def exchange(offered: tuple[Tool, ...], chance: Random) -> list[Turn]:
    """A question for one of the tools offered, its call, perhaps its result and the answer."""
    tool = chance.choice(offered)
    return _ASK.get(tool.kind, _ask_named)(tool, chance)


def refused(chance: Random) -> list[Turn]:
    """A question that would need a tool that is not there."""
    if chance.random() < 0.3:
        ask = chance.choice(
            (
                "What time is it?",
                "What's the time?",
                f"What time is it in {place(chance)}?",
                "What day is it today?",
                "What is today's date?",
                "What is the date?",
            )
        )
        return [("user", ask), ("assistant", "I can't see a clock or a calendar without a tool, so I don't know.")]
    ask = chance.choice(
        _WORDS["ask_weather"] + ["What's the weather?", "How is the weather today?", "Will it rain tomorrow?"]
    ).format(place(chance))
    return [("user", ask), ("assistant", chance.choice(_WORDS["no_weather"]))]
