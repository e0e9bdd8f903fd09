"""Our gateway beside nginx and LiteLLM on one fake upstream, in one run; prints ratios and writes a table.

    make bench                                     everything, about a quarter of an hour
    python benchmarks/run.py --rounds 1 --targets nginx,unbroken --scenarios paced

Each gateway is pinned to core 0 and asked for one worker; upstream, load and stores share core 1. Runs alternate
between the gateways, figures are medians over the rounds, and what counts is the ratio to nginx, which relays without
parsing and is the physical limit. Machines differ and are noisy: compare within one run only.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from typing import Any

from kernel import files_allowed, machine_cpu
from report import show, table, verdicts
from scenarios import OPEN_STREAMS, SCENARIOS, WANTED_STREAMS, Scenario, figure_of
from targets import CORE_OF_THE_REST, HERE, UPSTREAM_PORT, WORK, Target, install_litellm, targets

DOCS = HERE.parent / "docs" / "benchmarks.md"
#: Brings in what is loaded at the first requests, and leaves little freed memory for the streams to be measured.
WARM = ["--model", "bench-n2", "--connections", "2", "--stream", "--warmup", "0.2", "--seconds", "0.5"]
NAMES = [scenario.name for scenario in SCENARIOS]


def wait_quiet() -> None:
    """Waits, not for ever, until the rest of the machine is quiet."""
    for _ in range(6):
        before = machine_cpu()
        time.sleep(0.5)
        if machine_cpu() - before < 0.12:
            return


def measure(chosen: dict[str, Target], scenarios: list[Scenario], rounds: int, upstream: int) -> None:
    """Every scenario, round by round, alternating between the targets."""
    for scenario in scenarios:
        names = [name for name in scenario.targets if name in chosen]
        many = min(rounds, scenario.rounds_at_most)
        for number in range(many):
            for name in names:
                wait_quiet()
                result = one_run(chosen[name], scenario, upstream)
                chosen[name].results.setdefault(scenario.name, []).append(result)
                print(f"{scenario.name} {number + 1}/{many} {name:<10} {brief(scenario, result)}", flush=True)


def one_run(target: Target, scenario: Scenario, upstream: int) -> dict[str, Any]:
    """One run of a scenario."""
    if scenario.is_start:
        return {"start_s": target.start_and_measure(), "errors": 0}
    flags = list(scenario.flags)
    if scenario.is_fresh and target.process:
        target.stop()
        target.start()
        target.load(WARM)
    if scenario.resumes:
        flags += ["--path", f"/v1/streams/{target.make_stream(scenario.resumes)}"]
    return target.load(flags, upstream)


def brief(scenario: Scenario, result: dict[str, Any]) -> str:
    """A run in one line."""
    if "failed" in result:
        return f"FAILED {result['failed'].strip().splitlines()[-1:]}"
    figures = "  ".join(f"{name} {show(figure_of(result, name))}" for name in scenario.figures)
    noise = f"  (others' CPU {result['other_cpu_percent']:.0f} %)" if "other_cpu_percent" in result else ""
    errors = f"  errors {result['errors']} {result['error_reasons']}" if result["errors"] else ""
    return figures + noise + errors


def chosen_targets(wanted: list[str]) -> tuple[dict[str, Target], list[str]]:
    """The targets that are wanted and can be had; and what is to be said of those that cannot."""
    if "litellm" in wanted:
        install_litellm()
    known, absent = targets()
    if unknown := set(wanted) - set(known) - set(absent):
        raise SystemExit(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join([*known, *absent])}")
    missing = [f"{name} is left out: {why}." for name, why in absent.items() if name in wanted]
    for line in missing:
        print(line, flush=True)
    return {name: target for name, target in known.items() if name in wanted}, missing


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = list(dict.fromkeys(name for scenario in SCENARIOS for name in scenario.targets))
    parser.add_argument("--targets", default=",".join(every), help=f"names, by comma, of {', '.join(every)}")
    parser.add_argument("--scenarios", default=",".join(NAMES), help=f"names, by comma, of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-table", action="store_true", help=f"leave {DOCS.name} as it is")
    args = parser.parse_args()
    names = args.scenarios.split(",")
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in names]
    WORK.mkdir(exist_ok=True)
    chosen, remarks = chosen_targets(args.targets.split(","))
    used = {name for scenario in scenarios for name in scenario.targets}
    chosen = {name: target for name, target in chosen.items() if name in used}
    if "many" in names and OPEN_STREAMS < WANTED_STREAMS:
        remarks.append(
            f"The hard limit of open files here is {files_allowed():,}, and a gateway needs two for each stream: "
            f"{OPEN_STREAMS:,} streams are opened, not {WANTED_STREAMS:,}."
        )
        print(remarks[-1], flush=True)
    began = time.monotonic()
    upstream = subprocess.Popen(
        ["taskset", "-c", CORE_OF_THE_REST, sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM_PORT)]
    )
    try:
        time.sleep(0.7)
        for target in chosen.values():
            target.start()
        measure(chosen, scenarios, args.rounds, upstream.pid)
    finally:
        for target in chosen.values():
            target.stop()
        upstream.terminate()
    tables = "\n".join(table(scenario, chosen) for scenario in scenarios)
    print(f"\n{tables}\n{verdicts(chosen)}\n{time.monotonic() - began:.0f} s in all")
    if args.no_table:
        return
    if len(scenarios) < len(SCENARIOS):
        print(f"{DOCS.name} stays as it is: only some scenarios were run")
        return
    how = f"{args.rounds} rounds on {cpu_name()} with {os.cpu_count()} cores, Python {platform.python_version()}."
    said = "\n".join([how, *remarks])
    DOCS.write_text(f"{INTRODUCTION}\n{said}\n\n## Goals\n\n{verdicts(chosen)}\n## Figures\n\n{tables}")
    print(f"written to {DOCS}")


def cpu_name() -> str:
    """What the processor calls itself."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


INTRODUCTION = """# Benchmarks

Written by `make bench`; [benchmarks/README.md](../benchmarks/README.md) says how it measures. nginx passes bytes
through without parsing them and is the physical limit. CPU is user + system time of the gateway's process tree, one
worker on one core. Figures of different runs or machines cannot be compared, ratios within a run can.
`sqlite` and `valkey` are ours with durable streams, `translated` is ours before a server of Anthropic's dialect.
"""


if __name__ == "__main__":
    main()
