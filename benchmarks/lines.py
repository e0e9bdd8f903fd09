"""Which lines of ours the interpreter spends its time in, and at which instruction: what is fetched from memory shows.

    python benchmarks/lines.py --durable
    python benchmarks/lines.py --model bench-n2000-d20 --top 60

Linux's `perf` samples the gateway under load, each sample with the register that holds the bytecode's address; this
finds the code object around it. A profiler in Python sees calls; this sees that one `LOAD_ATTR` takes as long as ten
others, because the object behind it has to be fetched. It knows CPython 3.11 as Debian builds it for x86-64, where
that register is r15. (docs/decisions/0016-few-things-of-each-stream.md)
"""

import argparse
import dis
import gc
import json
import re
import runpy
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from targets import CORE_OF_THE_REST, DURABLE, HERE, UPSTREAM_PORT, WORK, unbroken

MAP = WORK / "codes.json"
SAMPLES = WORK / "lines.perf"
SECONDS = 6
_SAMPLE = re.compile(r"\s*\d+\s+[0-9a-f]+\s+(\S+).*?R15:0x([0-9a-f]+)")

Code = tuple[int, int, str, list[tuple[int, str, int]]]
"""Where its instructions begin, their bytes, its name; offset, text and line of each instruction."""


def run_gateway(arguments: list[str]) -> None:
    """Is the gateway, and soon writes down where its code is."""
    threading.Timer(1.0, _write_map).start()
    sys.argv = ["unbroken", *arguments]
    runpy.run_module("unbroken", run_name="__main__", alter_sys=True)


def _write_map() -> None:
    codes: dict[int, Code] = {}
    for thing in _functions():
        _add_code(codes, thing.__code__)
    MAP.write_text(json.dumps(sorted(codes.values())))


def _functions() -> list[FunctionType]:
    found = [thing for thing in gc.get_objects() if isinstance(thing, FunctionType)]
    for name, module in list(sys.modules.items()):  # what is frozen is not among the collector's objects
        if name.startswith("unbroken"):
            for thing in list(vars(module).values()):
                members = list(vars(thing).values()) if isinstance(thing, type) else [thing]
                found += filter(None, map(_function_of, members))
    return found


def _function_of(member: object) -> FunctionType | None:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    if isinstance(member, property):
        member = member.fget
    return member if isinstance(member, FunctionType) else None


def _add_code(codes: dict[int, Code], code: CodeType) -> None:
    if id(code) in codes or "unbroken" not in code.co_filename:
        return
    line, instructions = 0, []
    for each in dis.get_instructions(code):
        line = each.positions.lineno if each.positions and each.positions.lineno else line
        instructions.append((each.offset, f"{each.opname} {each.argrepr}", line))
    start = id(code) + CodeType.__basicsize__
    codes[id(code)] = start, len(code.co_code), f"{Path(code.co_filename).name} {code.co_qualname}", instructions
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(codes, constant)


def attribute(top: int) -> None:
    """Prints which functions and instructions the samples were in."""
    codes: list[Code] = json.loads(MAP.read_text())
    starts = [code[0] for code in codes]
    script = ["perf", "script", "-i", str(SAMPLES), "-F", "tid,ip,sym,uregs"]
    samples = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    functions: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for sample in samples:
        match = _SAMPLE.match(sample)
        if match is None or not match[1].startswith("_PyEval"):
            continue
        at = int(match[2], 16)
        start, size, name, instructions = codes[bisect_right(starts, at) - 1]
        if 0 <= at - start < size:
            offset, text, line = instructions[bisect_right([each[0] for each in instructions], at - start) - 1]
            functions[name] += 1
            places[f"{name}:{line}  {text} ({offset})"] += 1
    for title, counted in ("functions", functions), ("instructions", places):
        print(f"\n{title}, of all {len(samples):,} samples of the process")
        for name, count in counted.most_common(top):
            print(f"{count / len(samples):7.2%}  {name}")


def measure(flags: list[str], load: list[str]) -> None:
    """Samples a gateway under load."""
    WORK.mkdir(exist_ok=True)
    MAP.unlink(missing_ok=True)
    gateway = unbroken("lines", 8108, flags=flags)
    gateway.command = [sys.executable, __file__, "--as-gateway", *gateway.command[3:]]
    gateway.environment["PYTHONPATH"] = str(HERE.parent / "src")
    upstream = subprocess.Popen(
        ["taskset", "-c", CORE_OF_THE_REST, sys.executable, str(HERE / "upstream.py"), "--port", str(UPSTREAM_PORT)]
    )
    results: list[dict[str, Any]] = []
    try:
        time.sleep(0.7)
        gateway.start()
        loading = threading.Thread(target=lambda: results.append(gateway.load(load)))
        loading.start()
        time.sleep(2.5)
        assert gateway.process is not None
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4999", "--user-regs=ip,r15", "-o", str(SAMPLES)]
        subprocess.run([*record, "-p", str(gateway.process.pid), "--", "sleep", str(SECONDS)], check=True)
        loading.join()
    finally:
        gateway.stop()
        upstream.terminate()
    print(f"{results[0].get('cpu_us_per_chunk')} µs a chunk, errors {results[0].get('errors')}")


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["--as-gateway"]:
        return run_gateway(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durable", action="store_true", help="durable streams, in SQLite")
    parser.add_argument("--model", default="bench-n200-d20", help="the shape of the streams")
    parser.add_argument("--connections", type=int, default=200, help="streams at once")
    parser.add_argument("--top", type=int, default=30, help="how many lines of each table")
    args = parser.parse_args()
    load = ["--model", args.model, "--connections", str(args.connections), "--stream", "--cut"]
    measure(DURABLE if args.durable else [], [*load, "--ramp", "0.5", "--warmup", "0.5", "--seconds", "9"])
    attribute(args.top)


if __name__ == "__main__":
    main()
