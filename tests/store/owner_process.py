"""A process that owns a stream and appends numbers to it, for a test to kill or to stop; says what it hears."""

import asyncio
import sys
from collections.abc import Sequence

from unbroken.chat.stream import Block, Offset, StreamId, StreamRecord, StreamStatus
from unbroken.store.durable import DurableStreamLog
from unbroken.store.log import LogError
from unbroken.store.sqlite import SqliteStorage


async def own(path: str, stream: StreamId, lease: float) -> None:
    """Appends until it has lost the stream."""
    log = DurableStreamLog(SqliteStorage(path, lease=lease), lease=lease)
    lost: asyncio.Future[LogError] = asyncio.get_running_loop().create_future()
    await log.start()
    epoch = await log.open(StreamRecord(id=stream), on_lost=lost.set_result)
    assert not isinstance(epoch, StreamStatus)

    def say(first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        print("has", b"".join(blocks).decode(), flush=True)

    await log.follow(stream, Offset(0), say)
    number = 0
    while not lost.done():
        number += 1
        log.append(stream, epoch, [Block(f"{number} ".encode())])
        await asyncio.sleep(0.001)
    print("lost", type(lost.result()).__name__, flush=True)
    await log.close()


if __name__ == "__main__":
    asyncio.run(own(sys.argv[1], StreamId(sys.argv[2]), float(sys.argv[3])))
