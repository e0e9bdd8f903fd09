"""Two versions of our gateway and nginx in the same seconds on one core: what a change to the hot path is worth.

    git worktree add ../before HEAD~1
    python benchmarks/together.py --other ../before
    python benchmarks/together.py --other ../before --durable --model bench-n10-d20

One after the other two runs of the same code differ by a fifth on a shared machine. Here what disturbs one disturbs
all, and the ratios of a round hold still. They are not those of docs/benchmarks.md: three gateways share a core and its
caches, and each has a third of the load.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from targets import CORE_OF_THE_REST, DURABLE, HERE, UPSTREAM_PORT, WORK, Target, targets, unbroken

CPU = "cpu_us_per_chunk"
AFTERMATH = 5.0  # seconds: durable streams that the load has left go on to their end, and would count in the next round


def gateways(other: Path, flags: list[str]) -> list[Target]:
    """What is compared; the first one is what the others are held against."""
    known, absent = targets()
    if "nginx" in absent:
        raise SystemExit(f"nginx is needed: {absent['nginx']}")
    now, before = unbroken("now", 8102, flags=flags), unbroken("other", 8103, flags=flags)
    now.environment["PYTHONPATH"] = str(HERE.parent / "src")
    before.environment["PYTHONPATH"] = str(other / "src")
    return [known["nginx"], before, now]


def measure(compared: list[Target], flags: list[str], rounds: int, pause: float) -> None:
    """Prints each round, and the medians."""
    ratios: dict[str, list[float]] = {target.name: [] for target in compared}
    with ThreadPoolExecutor(len(compared)) as pool:
        for number in range(rounds):
            results = list(pool.map(lambda target: target.load(flags), compared))
            if failed := [result["failed"] for result in results if "failed" in result]:
                raise SystemExit(f"the load generator failed: {failed[0]}")
            base = results[0][CPU]
            for target, result in zip(compared, results, strict=True):
                ratios[target.name].append(result[CPU] / base)
            said = "  ".join(
                f"{target.name} {result[CPU]:.1f} µs × {result[CPU] / base:.2f}, errors {result['errors']}"
                for target, result in zip(compared, results, strict=True)
            )
            print(f"{number + 1}/{rounds}  {said}", flush=True)
            time.sleep(pause if number + 1 < rounds else 0)
    print("CPU per chunk × nginx, medians: " + "  ".join(f"{name} {median(all):.3f}" for name, all in ratios.items()))


def main() -> None:
    """Compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="another checkout of this project")
    parser.add_argument("--durable", action="store_true", help="durable streams, in SQLite")
    parser.add_argument("--model", default="bench-n200-d20", help="the shape of the streams")
    parser.add_argument("--connections", type=int, default=70, help="streams at once, of each")
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    if not (args.other / "src" / "unbroken").is_dir():
        raise SystemExit(f"{args.other} is no checkout of this project: it has no src/unbroken")
    WORK.mkdir(exist_ok=True)
    compared = gateways(args.other.resolve(), DURABLE if args.durable else [])
    flags = ["--model", args.model, "--connections", str(args.connections), "--stream", "--cut"]
    flags += ["--ramp", "0.5", "--warmup", "0.5", "--seconds", "4"]
    upstream = subprocess.Popen(
        ["taskset", "-c", CORE_OF_THE_REST, sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM_PORT)]
    )
    try:
        time.sleep(0.7)
        for target in compared:
            target.start()
        measure(compared, flags, args.rounds, AFTERMATH if args.durable else 0.0)
    finally:
        for target in compared:
            target.stop()
        upstream.terminate()


if __name__ == "__main__":
    main()
