"""Our gateway beside nginx and LiteLLM on one fake upstream, in one run; prints ratios and writes a table.

    make bench                                     everything, about 10 minutes
    python benchmarks/run.py --rounds 1 --targets nginx,unbroken --scenarios paced

Each gateway is pinned to core 0 and asked for one worker; upstream and load share core 1. Runs alternate between the
gateways, figures are medians over the rounds, and what counts is the ratio to nginx, which relays without parsing and
is the physical limit. Machines differ and are noisy: compare within one run only.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import machine_cpu, tree

HERE = Path(__file__).parent
WORK = HERE / "work"
DOCS = HERE.parent / "docs" / "benchmarks.md"
UPSTREAM_PORT = 9100
KEY = "sk-bench"

PACED = ["--stream", "--ramp", "0.5", "--warmup", "0.5", "--seconds", "4", "--cut"]
IDLE = ["--ramp", "2", "--warmup", "2", "--seconds", "1"]
SCENARIOS: dict[str, list[str]] = {
    "request": ["--model", "bench-n200", "--connections", "32", "--warmup", "0.6", "--seconds", "2.5"],
    "paced": ["--model", "bench-n200-d20", "--connections", "200", *PACED],
    "burst": ["--model", "bench-n200", "--connections", "32", "--warmup", "0.6", "--seconds", "2.5", "--stream"],
    "idle": ["--model", "bench-n2-d60000", "--connections", "1000", "--stream", "--cut", *IDLE],
}
MEANING = {
    "request": "small non-streaming requests, 32 connections",
    "paced": "200 streams of 50 chunks/s each, every chunk its own write: the shape of chat",
    "burst": "200 chunks at once, 32 connections",
    "idle": "1,000 open streams that wait",
}


@dataclass
class Target:
    """A gateway to measure; without a command it is the upstream itself."""

    name: str
    url: str
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 30.0
    process: subprocess.Popen[bytes] | None = None
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def start(self) -> None:
        """Starts it pinned to core 0 and waits until it answers a stream."""
        if not self.command:
            return
        folder = WORK / self.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", "0", *self.command],
                cwd=folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + self.patience
        while time.monotonic() < end and self.process.poll() is None:
            probe = [
                "--model",
                "bench-n2",
                "--connections",
                "1",
                "--requests",
                "1",
                "--warmup",
                "0.2",
                "--seconds",
                "2",
            ]
            if self.load([*probe, "--stream"]).get("completed_in_all"):
                return
            time.sleep(0.3)
        raise SystemExit(f"{self.name} did not answer; see {folder / 'log.txt'}")

    def load(self, flags: list[str], upstream: int = 0) -> dict[str, Any]:
        """One run of the load generator."""
        command = ["taskset", "-c", "1", sys.executable, str(HERE / "load.py"), "--url", self.url, "--key", KEY, *flags]
        if self.process:
            command += ["--pid", str(self.process.pid)]
        if upstream:
            command += ["--bench-pid", str(upstream)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-500:]}

    def stop(self) -> None:
        """Ends it and what it started."""
        if self.process is None:
            return
        for pid in reversed(tree(self.process.pid)):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process = None


def targets() -> dict[str, Target]:
    """What can be measured on this machine, by name."""
    litellm = WORK / "litellm-venv" / "bin" / "litellm"
    found = [Target("direct", f"http://127.0.0.1:{UPSTREAM_PORT}")]
    if shutil.which("nginx"):
        nginx = ["nginx", "-p", ".", "-c", str(HERE / "configs" / "nginx.conf")]
        found.append(Target("nginx", "http://127.0.0.1:8101", nginx))
    unbroken = [sys.executable, "-m", "unbroken", "serve", "--config", str(HERE / "configs" / "unbroken.toml")]
    found.append(Target("unbroken", "http://127.0.0.1:8102", unbroken))
    if litellm.exists():
        command = [str(litellm), "--config", str(HERE / "configs" / "litellm.yaml"), "--host", "127.0.0.1"]
        environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        environment |= {"NO_DOCS": "True", "DISABLE_ADMIN_UI": "True"}
        found.append(
            Target(
                "litellm", "http://127.0.0.1:8107", [*command, "--port", "8107", "--num_workers", "1"], environment, 180
            )
        )
    return {target.name: target for target in found}


def install_litellm() -> None:
    """LiteLLM in a virtual environment of its own, if it is not there."""
    venv = WORK / "litellm-venv"
    if not (venv / "bin" / "litellm").exists():
        print("installing LiteLLM beside the project, once …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)


def wait_quiet() -> None:
    """Waits, not for ever, until the rest of the machine is quiet."""
    for _ in range(3):
        before = machine_cpu()
        time.sleep(1)
        if machine_cpu() - before < 0.25:
            return


def measure(chosen: list[Target], scenarios: list[str], rounds: int, upstream: int) -> None:
    """Every scenario, round by round, alternating between the targets."""
    for scenario in scenarios:
        for number in range(rounds):
            for target in chosen:
                wait_quiet()
                if scenario == "idle" and target.process:  # a fresh process, for its memory
                    target.stop()
                    target.start()
                    target.load([*SCENARIOS["request"][:4], "--stream", "--seconds", "1"])
                result = target.load(SCENARIOS[scenario], upstream)
                target.results.setdefault(scenario, []).append(result)
                print(f"{scenario} {number + 1}/{rounds} {target.name:<9} {brief(scenario, result)}", flush=True)


def brief(scenario: str, result: dict[str, Any]) -> str:
    """A run in one line."""
    if "failed" in result:
        return f"FAILED {result['failed'].strip().splitlines()[-1:]}"
    figures = {name: row(scenario, result, name) for name in FIGURES[scenario]}
    noise = f"others' CPU {result['other_cpu_percent']:.0f} %"
    errors = f"  errors {result['errors']} {result['error_reasons']}" if result["errors"] else ""
    return "  ".join(f"{name} {show(value)}" for name, value in figures.items()) + f"  ({noise}){errors}"


FIGURES = {
    "request": ["CPU µs/request", "p50 ms", "requests/s"],
    "paced": ["CPU µs/chunk", "transit p50 µs", "transit p99 µs", "chunks/s"],
    "burst": ["CPU µs/chunk", "chunks/s"],
    "idle": ["KiB/stream", "open streams"],
}


def row(scenario: str, result: dict[str, Any], figure: str) -> float | None:
    """One figure of one run; None where there is none."""
    transit, total = result.get("transit_us") or {}, result.get("total_ms") or {}
    grown = (result.get("rss_after_mib") or 0) - (result.get("rss_before_mib") or 0)
    streams = result.get("open_streams")
    values = {
        "CPU µs/request": result.get("cpu_us_per_request"),
        "CPU µs/chunk": result.get("cpu_us_per_chunk"),
        "p50 ms": total.get("p50"),
        "requests/s": result.get("requests_per_s"),
        "chunks/s": result.get("chunks_per_s"),
        "transit p50 µs": transit.get("p50"),
        "transit p99 µs": transit.get("p99"),
        "KiB/stream": grown * 1024 / streams if streams and result.get("rss_after_mib") else None,
        "open streams": streams,
    }
    return values[figure]


def show(value: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median(target: Target, scenario: str, figure: str) -> float | None:
    """The median over the rounds, of the runs that did not fail."""
    runs = [result for result in target.results.get(scenario, []) if "failed" not in result]
    values = [value for result in runs if (value := row(scenario, result, figure)) is not None]
    return statistics.median(values) if values else None


def table(chosen: list[Target], scenario: str) -> str:
    """One scenario as a markdown table with its ratios to nginx."""
    figures = FIGURES[scenario]
    cost = figures[0]
    by_name = {target.name: target for target in chosen}
    nginx = median(by_name["nginx"], scenario, cost) if "nginx" in by_name else None
    direct = by_name.get("direct")
    lines = [f"### {scenario}: {MEANING[scenario]}", "", f"| | {' | '.join(figures)} | {cost} × nginx | added p50 µs |"]
    lines.append("|---|" + "---:|" * (len(figures) + 2))
    for target in chosen:
        cells = [show(median(target, scenario, figure)) for figure in figures]
        own = median(target, scenario, cost)
        cells.append(f"{own / nginx:.2f}" if own and nginx else "–")
        mine, base = (median(t, scenario, "transit p50 µs") if t else None for t in (target, direct))
        cells.append(show(mine - base) if scenario == "paced" and mine and base else "–")
        lines.append(f"| {target.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="direct,nginx,unbroken,litellm", help="names, by comma")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="names, by comma")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-table", action="store_true", help=f"leave {DOCS.name} as it is")
    args = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    if "litellm" in args.targets.split(","):
        install_litellm()
    known = targets()
    for name in args.targets.split(","):
        if name not in known:
            print(f"{name} is left out: it is not installed (Debian: apt-get install nginx-light)", flush=True)
    chosen = [known[name] for name in args.targets.split(",") if name in known]
    upstream = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM_PORT)]
    )
    try:
        time.sleep(0.7)
        for target in chosen:
            target.start()
        measure(chosen, args.scenarios.split(","), args.rounds, upstream.pid)
    finally:
        for target in chosen:
            target.stop()
        upstream.terminate()
    tables = "\n".join(table(chosen, scenario) for scenario in args.scenarios.split(","))
    print("\n" + tables)
    if not args.no_table:
        DOCS.write_text(f"{INTRODUCTION}\n{tables}")
        print(f"written to {DOCS}")


INTRODUCTION = """# Benchmarks

Written by `make bench`; [benchmarks/README.md](../benchmarks/README.md) says how it measures. nginx passes bytes
through without parsing them and is the physical limit. CPU is user + system time of the gateway's process tree, one
worker on one core. Figures of different runs or machines cannot be compared, ratios within a run can.
"""


if __name__ == "__main__":
    main()
