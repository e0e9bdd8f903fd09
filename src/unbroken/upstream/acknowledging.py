"""How soon the kernel acknowledges what an upstream sends (docs/decisions/0012-acknowledged-later.md)."""

import asyncio
import socket
from contextlib import suppress

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


def acknowledge_later(transport: asyncio.BaseTransport) -> None:
    """Asks the kernel to acknowledge every other of the small pieces that come, in place of each as it is read.

    It forgets that by itself where a piece waits alone for longer than the delay of an acknowledgement, 40 ms.
    """
    connection = transport.get_extra_info("socket")
    if _QUICKACK is None or connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError, ValueError):  # it is closed (uvloop's raises the latter): that is heard of elsewhere
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)
