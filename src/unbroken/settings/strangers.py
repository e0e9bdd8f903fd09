"""Variables of the environment that look like ours and change nothing: a mistake more often than not."""

import difflib
import re
from collections.abc import Iterator, Mapping

from unbroken.settings.catalogue import PREFIX, sections, settings_of, variable

#: Variables that are ours and name no setting.
OURS = (
    *("UNBROKEN_BASE_URL", "UNBROKEN_API_KEY"),
    *("UNBROKEN_OPENAI_BASE_URL", "UNBROKEN_ANTHROPIC_BASE_URL", "UNBROKEN_OLLAMA_BASE_URL"),
)
KEYS = f"{PREFIX}KEYS_"

#: What container platforms add for a service that is called `unbroken`, or begins so.
_OF_A_PLATFORM = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_ADDRESS_OF_A_PLATFORM = re.compile(r"(tcp|udp|sctp)://")
ALIKE = 0.8


def strangers(environment: Mapping[str, str], configuration: str = "") -> Iterator[str]:
    """A sentence for each variable that begins like ours and is none; `configuration` is the text of the file."""
    known = {variable(section, setting.name) for section, table in sections() for setting in settings_of(table)}
    known.update(OURS)
    for name, value in environment.items():
        is_known = name in known or name.startswith(KEYS) or name in configuration
        if name.startswith(PREFIX) and value and not is_known and not _is_of_a_platform(name, value):
            meant = _meant(name, known)
            yield f"{name} is not a setting and changes nothing" + (f"; did you mean {meant}?" if meant else "")


def _is_of_a_platform(name: str, value: str) -> bool:
    return bool(_OF_A_PLATFORM.fullmatch(name) or _ADDRESS_OF_A_PLATFORM.match(value))


def _meant(name: str, known: set[str]) -> str:
    if name.startswith(f"{PREFIX}KEY_"):
        return KEYS + name.removeprefix(f"{PREFIX}KEY_")
    rest = name.removeprefix(PREFIX)
    if ending := sorted(other for other in known if other.endswith(f"_{rest}")):
        return ending[0]
    close = difflib.get_close_matches(rest, [other.removeprefix(PREFIX) for other in known], n=1, cutoff=ALIKE)
    return PREFIX + close[0] if close else ""
