"""A file that may not be written is told clearly, and nothing is lost when it may be again (D13)."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Run by somebody who is not root, for whom a file's mode counts.
PROGRAM = """
import asyncio, concurrent.futures.thread, os, sys  # all that is imported later, while it may be read
from tests.store.appends import append_of
from unbroken.chat.stream import Block, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.log import StoreUnavailable
from unbroken.store.sqlite import SqliteStorage

path, user = sys.argv[1], int(sys.argv[2])

async def main():
    storage = SqliteStorage(path)
    if os.getuid() == 0:
        os.setuid(user)
    try:
        await storage.start(OwnerId("one"))
        await storage.create(StreamRecord(id=StreamId("a")))
        await storage.commit([append_of(StreamId("a"), 1, Offset(1), [Block(b"x")])])
    except StoreUnavailable as error:
        print("refused:", error)
    else:
        print("written", (await storage.read(StreamId("a"), Offset(0))).blocks)
    await storage.close()

asyncio.run(main())
"""

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that belongs to whoever runs the program, in one that all may enter."""
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        if os.getuid() == 0:
            os.chown(own, NOBODY, NOBODY)
        yield own
        own.chmod(0o700)


def run(path: Path) -> str:
    command = [sys.executable, "-c", PROGRAM, str(path), str(NOBODY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_read_only_file_is_told_and_taken_again_when_it_may_be_written(folder: Path) -> None:
    path = folder / "streams.db"
    assert run(path).startswith("written")
    path.chmod(0o400)
    folder.chmod(0o500)
    said = run(path)
    assert said.startswith("refused:")
    assert str(path) in said
    folder.chmod(0o700)
    path.chmod(0o600)
    assert run(folder / "other.db").startswith("written")


def test_folder_that_may_not_be_written_is_told(folder: Path) -> None:
    folder.chmod(0o500)
    said = run(folder / "streams.db")
    assert said.startswith("refused:")
    assert "streams.db" in said
