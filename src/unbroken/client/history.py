"""The file that keeps what was typed into the chat, readable by its owner only."""

import os
from collections.abc import Mapping
from pathlib import Path

MAX_HISTORY_BYTES = 1 << 20  # thousands of questions; the older half goes when there are more
_ENTRY = b"\n# "  # prompt_toolkit begins an entry with a comment that tells the time


def history_path(environment: Mapping[str, str]) -> Path:
    """Where the history is: the state directory of the XDG base directory specification."""
    state = environment.get("XDG_STATE_HOME") or ""
    root = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return root / "unbroken" / "chat_history"


def prepare_history(path: Path) -> bool:
    """Make the file, private and not too long; False where that cannot be."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "rb+") as file:
            os.fchmod(descriptor, 0o600)
            if (size := os.fstat(descriptor).st_size) > MAX_HISTORY_BYTES:
                file.seek(size - MAX_HISTORY_BYTES // 2)
                kept = _ENTRY + file.read().partition(_ENTRY)[2]
                file.seek(0)
                file.write(kept)
                file.truncate()
    except OSError:
        return False
    return True
