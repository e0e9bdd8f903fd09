"""The metrics of several workers in one exposition: each sample says whose it is.

They are not added up: a worker that is started again begins at zero, which Prometheus sees in a series of its own and
could not tell in a sum.
"""

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+(?: \S+)?)")
_FAMILY_LINES = ("# HELP ", "# TYPE ")


def of_all_workers(texts: Mapping[int, str]) -> str:
    """One text of each worker's, by its number; every sample has the label `worker`."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in sorted(texts.items()):
        family = ""
        for line in text.split("\n"):  # not splitlines(): names that clients give may hold U+2028
            if line.startswith(_FAMILY_LINES):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif found := _SAMPLE.fullmatch(line):
                samples.setdefault(family, []).append(_labelled(found, worker))
    return "".join(f"{line}\n" for family, head in heads.items() for line in (*head, *samples.get(family, ())))


def _labelled(sample: re.Match[str], worker: int) -> str:
    more = f"{sample['labels']}," if sample["labels"] else ""
    return f'{sample["name"]}{{{more}worker="{worker}"}} {sample["value"]}'
