"""Names of models with `*` and `?`, and what they stand for. Matching takes time linear in the name for each part."""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class ModelEntry:
    """One entry of an upstream's models or of a route: a name, a glob, or an `ours = theirs` pair."""

    ours: str
    theirs: str

    @classmethod
    def read(cls, text: str) -> "ModelEntry":
        """The entry that `text` is."""
        ours, _, theirs = (part.strip() for part in text.partition("="))
        return cls(ours, theirs or ours)

    @cached_property
    def is_glob(self) -> bool:
        """Whether it stands for more than one name."""
        return "*" in self.ours or "?" in self.ours

    def is_exactly(self, model: str) -> bool:
        """Whether it is the name `model`, and no glob."""
        return self.ours == model and not self.is_glob

    def translate(self, model: str) -> str | None:
        """What the upstream calls `model`; None where the entry does not mean it.

        In a pair of globs the `*` of theirs is what the first `*` of ours stands for, the shortest that fits.
        """
        if not self.is_glob:
            return self.theirs if model == self.ours else None
        if (match := self._pattern.fullmatch(model)) is None:
            return None
        star = match[1] if match.groups() else ""
        return model if self.theirs == self.ours else self.theirs.replace("*", star, 1)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Each `*` but the last takes the shortest that fits and, being atomic, never tries another: what follows it
        # may begin as early as possible, so nothing is missed, and hostile names cost no more than others.
        first, *rest = ("".join("." if c == "?" else re.escape(c) for c in part) for part in self.ours.split("*"))
        middle = "".join(f"(?>(.*?){part})" for part in rest[:-1])
        return re.compile(first + middle + "".join(f"(.*){part}" for part in rest[-1:]), re.DOTALL)
