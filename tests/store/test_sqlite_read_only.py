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

path, user, stream = sys.argv[1], int(sys.argv[2]), StreamId(sys.argv[3])

async def main():
    storage = SqliteStorage(path)
    if os.getuid() == 0:
        os.setuid(user)
    try:
        await storage.start(OwnerId("one"))
        await storage.create(StreamRecord(id=stream))
        await storage.commit([append_of(stream, 1, Offset(1), [Block(b"x")])])
    except StoreUnavailable as error:
        print("refused:", error)
    else:
        print("written", (await storage.read(stream, Offset(0))).blocks)
    await storage.close()

asyncio.run(main())
"""

#: The file becomes read-only under a log that runs: it says so at each commit, until it may be written again.
RUNNING_PROGRAM = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from unbroken.chat.stream import Block, Offset, StreamId, StreamRecord
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import StoreUnavailable
from unbroken.store.sqlite import SqliteStorage

path, user, stream = Path(sys.argv[1]), int(sys.argv[2]), StreamId(sys.argv[3])

def allow(may_write):
    for file in path.parent.iterdir():
        file.chmod(0o600 if may_write else 0o400)
    path.parent.chmod(0o700 if may_write else 0o500)

async def main():
    storage = SqliteStorage(path)
    log = DurableStreamLog(storage, lease=3600.0, patience=60.0)
    if os.getuid() == 0:
        os.setuid(user)
    await log.start()
    epoch = await log.create(stream, keep=True)
    log.append(stream, epoch, [Block(b"x")])
    await log.settle()
    allow(False)
    # A mode counts when a file is opened; on a disk that is mounted anew for reading only, what is open fails as well.
    await storage.write(lambda connection: connection.execute("PRAGMA query_only = ON"))
    log.append(stream, epoch, [Block(b"y")])
    for other in ("b", "c"):
        try:
            await log.open(StreamRecord(id=StreamId(other)))
        except StoreUnavailable as error:
            print("refused:", error)
    print("there is", [entry.block for entry in await log.read(stream, Offset(0))])
    allow(True)
    await log.settle()
    print("written", [entry.block for entry in await log.read(stream, Offset(0))])
    await log.close()

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


def run(path: Path, stream: str = "a", *, program: str = PROGRAM) -> str:
    command = [sys.executable, "-c", program, str(path), str(NOBODY), stream]
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
    assert run(path, "b").startswith("written")


def test_file_that_becomes_read_only_under_a_running_store_is_taken_again(folder: Path) -> None:
    """D13: what waits to be committed meanwhile is committed then, and nobody has seen it before."""
    path = folder / "streams.db"
    first, second, before, after = run(path, program=RUNNING_PROGRAM).splitlines()
    for said in (first, second):
        assert said.startswith("refused:")
        assert "readonly" in said
        assert str(path) in said
    assert before == "there is [b'x']"
    assert after == "written [b'x', b'y']"


def test_folder_that_may_not_be_written_is_told(folder: Path) -> None:
    folder.chmod(0o500)
    said = run(folder / "streams.db")
    assert said.startswith("refused:")
    assert "streams.db" in said
