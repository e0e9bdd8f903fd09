"""Medians over the rounds, as tables with their ratios, and held against the goals."""

import statistics
from collections.abc import Mapping, Sequence

from scenarios import GOALS, Comparison, Goal, Scenario, figure_of
from targets import Target


def show(value: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median(target: Target | None, scenario: str, figure: str) -> float | None:
    """The median over the rounds, of the runs that did not fail."""
    runs = [result for result in target.results.get(scenario, []) if "failed" not in result] if target else []
    values = [value for result in runs if (value := figure_of(result, figure)) is not None]
    return statistics.median(values) if values else None


def compared(comparison: Comparison, scenario: str, name: str, targets: Mapping[str, Target]) -> float | None:
    """What a comparison comes to; None where a part of it was not measured."""
    own = median(targets.get(name), scenario, comparison.figure)
    base = median(targets.get(comparison.base), scenario, comparison.figure)
    if own is None or comparison.kind == "value":
        return own
    if base is None or (comparison.kind == "ratio" and not base):
        return None
    return own / base if comparison.kind == "ratio" else own - base


def table(scenario: Scenario, targets: Mapping[str, Target]) -> str:
    """One scenario as a markdown table; below it what went wrong, if anything did."""
    heads = [*scenario.figures, *(comparison.title for comparison in scenario.comparisons)]
    lines = [f"### {scenario.name}: {scenario.meaning}", "", f"| | {' | '.join(heads)} |"]
    lines.append("|---|" + "---:|" * len(heads))
    for name in scenario.targets:
        if name not in targets or not targets[name].results.get(scenario.name):
            continue
        values = [median(targets[name], scenario.name, figure) for figure in scenario.figures]
        values += [compared(comparison, scenario.name, name, targets) for comparison in scenario.comparisons]
        lines.append(f"| {name} | {' | '.join(map(show, values))} |")
    lines += ["", *_complaints(scenario, targets)]
    return "\n".join(lines).rstrip() + "\n"


def _complaints(scenario: Scenario, targets: Mapping[str, Target]) -> list[str]:
    said = []
    for name in scenario.targets:
        runs = targets[name].results.get(scenario.name, []) if name in targets else []
        failed, errors = sum("failed" in run for run in runs), sum(run.get("errors", 0) for run in runs)
        if failed or errors:
            said.append(f"{name}: {failed} of {len(runs)} runs failed, {errors} answers were wrong or missing.")
    return said


def verdicts(targets: Mapping[str, Target], goals: Sequence[Goal] = GOALS) -> str:
    """The goals, and how far the medians of this run meet them."""
    lines = ["| goal | bound | stretch | measured | |", "|---|---:|---:|---:|---|"]
    for goal in goals:
        value = compared(goal.comparison, goal.scenario, goal.target, targets)
        sign = "≥" if goal.is_least else "≤"
        stretch = "–" if goal.stretch is None else f"{sign} {goal.stretch:,g}"
        cells = (goal.meaning, f"{sign} {goal.limit:,g}", stretch, show(value), _verdict(goal, value, targets))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verdict(goal: Goal, value: float | None, targets: Mapping[str, Target]) -> str:
    if value is None:
        return "not measured"
    if not goal.is_met(value, goal.limit):
        return "**missed**"
    if any(run.get("errors") or "failed" in run for run in targets[goal.target].results.get(goal.scenario, [])):
        return "**missed**: some answers were wrong"
    return "stretch met" if goal.stretch is not None and goal.is_met(value, goal.stretch) else "met"
