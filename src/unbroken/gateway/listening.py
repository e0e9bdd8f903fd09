"""What is settled before anybody is served: the address, the socket, the log."""

import errno
import socket

from unbroken.gateway.admission import is_loopback
from unbroken.gateway.journal import Journal
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings


def open_journal(settings: Settings, *, worker: int | None = None) -> Journal:
    """The log where the settings want it; its lines name the worker, if it is one.

    Raises:
        SettingsInvalid: the file cannot be written to.
    """
    try:
        always = {} if worker is None else {"worker": worker}
        return Journal(format=settings.log.format, file=settings.log.file, always=always)
    except OSError as error:
        raise SettingsInvalid(f"log.file {settings.log.file}: cannot be written to: {error.strerror}") from None


def check_address(settings: Settings) -> None:
    """Refuses to answer strangers: without a key only this machine is served.

    Raises:
        SettingsInvalid: says how to make a key.
    """
    host = settings.server.host
    try:
        if settings.keys or is_loopback(host):
            return
    except OSError as error:
        raise SettingsInvalid(f"host is {host}, which stands for no address: {error.strerror}") from None
    raise SettingsInvalid(
        f"host is {host}, but no key is configured: anyone who reaches this machine could use it.\n"
        "Make a key, and start again:\n\n"
        '    export UNBROKEN_KEYS_APP="$(openssl rand -hex 24)"\n\n'
        "or name it in unbroken.toml:\n\n"
        '    [keys]\n    app = "env:MY_KEY"\n\n'
        "or serve only this machine, with --host 127.0.0.1."
    )


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that is bound to the configured address.

    Raises:
        SettingsInvalid: the address cannot be had.
    """
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsInvalid(f"cannot listen at {place}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1)  # two can be bound to a port, only one listens; uvicorn sets the real backlog
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        hint = _BIND_HINTS.get(error.errno or 0, "")
        raise SettingsInvalid(f"cannot listen at {place}: {error.strerror or error}{hint}") from None
    return listening


_BIND_HINTS = {
    errno.EADDRINUSE: ". Another server runs there: stop it, or take another port; `--port 0` takes a free one",
    errno.EACCES: ". Ports below 1024 are for root: take a higher one",
    errno.EADDRNOTAVAIL: ". It is no address of this machine",
}
