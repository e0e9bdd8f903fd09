"""The line to a Valkey or Redis server: scripts and subscriptions, with every failure told as `StoreUnavailable`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any

from unbroken.store.log import StoreUnavailable

try:  # an extra: most have no such server
    import redis
    import redis.asyncio
    import redis.asyncio.retry
    import redis.backoff

    IS_INSTALLED = True
    FAILURES: tuple[type[Exception], ...] = (redis.RedisError, OSError)
except ModuleNotFoundError:
    IS_INSTALLED = False

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
PREFIX = "unbroken:"  # of all keys of ours
TIMEOUT = 3.0  # seconds for an answer: far beyond a healthy server's, and readers are waiting
MAX_CONNECTIONS = 8  # for reads beside the one commit that is under way
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Script:
    """A script that runs on the server, whole or not at all."""

    text: bytes
    digest: str


def load_script(name: str) -> Script:
    """The script in `valkey_<name>.lua`, as it lies beside this module."""
    text = (files(__package__) / f"valkey_{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


class Line:
    """A connection that hears what is published on the channels that it subscribes to."""

    def __init__(self, name: str, connection: "redis.asyncio.Connection") -> None:
        self._name = name
        self._connection = connection

    async def send(self, *command: bytes) -> None:
        """Sends a command; its answer comes among what is received."""
        if not self._connection.is_connected:  # it would connect by itself, without its subscriptions
            raise StoreUnavailable(f"{self._name}: the line is closed")
        try:
            await self._connection.send_command(*command)
        except FAILURES as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error

    async def receive(self, patience: float) -> Sequence[Any] | None:
        """What the server says next; None if it said nothing for `patience` seconds."""
        try:
            heard: Sequence[Any] | None = await self._connection.read_response(timeout=patience)
        except FAILURES as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error
        return heard


class ValkeyConnection:
    """A server, by its url. Connects when it is needed, and anew after a failure; keeps no state that could go stale.

    What is sent may be sent twice, where a connection turns out to be closed: scripts have to bear repetition.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        if not IS_INSTALLED:
            raise StoreUnavailable(f"{without_password(url)} needs a client library: pip install 'unbroken[valkey]'")
        scheme, separator, rest = url.partition("://")
        if scheme not in SCHEMES or not separator:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise StoreUnavailable(f"{without_password(url)} is no url of a Valkey or Redis server: {known}")
        self.name = without_password(url)
        self.timeout = timeout
        try:
            # Any: most of what follows has no types there
            self._pool: Any = redis.asyncio.BlockingConnectionPool.from_url(
                f"{SCHEMES[scheme]}://{rest}",
                max_connections=MAX_CONNECTIONS,
                timeout=None,  # the one of `_told` holds for the whole of a call
                socket_timeout=None,
                socket_connect_timeout=timeout,
                retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1, (redis.ConnectionError,)),
                protocol=2,
            )
        except ValueError:
            advice = "a password's /, ?, # and @ have to be written as %2F, %3F, %23 and %40"
            raise StoreUnavailable(
                f"the url of {self.name} cannot be read; {advice}"
            ) from None  # it quotes the password
        self._client: Any = redis.asyncio.Redis(connection_pool=self._pool)

    async def run(self, script: Script, keys: Sequence[str | bytes], *arguments: str | bytes | float) -> Any:
        """What the script answers. It is sent whole where the server does not know it (yet, or any more)."""
        async with self._told():
            try:
                return await self._client.execute_command("EVALSHA", script.digest, len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                return await self._client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)

    async def command(self, *words: str | bytes | float) -> Any:
        """What the server answers to one command."""
        async with self._told():
            return await self._client.execute_command(*words)

    @asynccontextmanager
    async def open_line(self) -> AsyncIterator[Line]:
        """A connection of its own for what is published."""
        connection = self._pool.make_connection()
        try:
            async with self._told():
                await connection.connect()
            yield Line(self.name, connection)
        finally:
            await connection.disconnect(nowait=True)

    async def check(self) -> None:
        """Raises StoreUnavailable where the server cannot be reached, or is one that could lose what it was given."""
        told: dict[str, Any] = await self.command("INFO")
        version = str(told.get("redis_version", "0.0"))
        if tuple(map(int, version.split(".")[:2])) < OLDEST:
            raise StoreUnavailable(f"{self.name} has version {version}; 6.2 is the oldest that will do")
        if int(told.get("cluster_enabled", 0)):
            raise StoreUnavailable(f"{self.name} is part of a cluster; a single server (with replicas) is needed")
        policy = str(told.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys"):
            advice = "set it to noeviction, or to volatile-ttl, which only drops streams that have ended"
            raise StoreUnavailable(f"{self.name} drops streams at will under its maxmemory-policy {policy}: {advice}")

    async def close(self) -> None:
        """Closes all connections but open lines."""
        await self._client.aclose()
        await self._pool.disconnect()

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        """Tells a failure as `StoreUnavailable`, by a name of the server without the password."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except redis.exceptions.ReadOnlyError as error:
            await self._pool.disconnect(inuse_connections=False)  # its name may stand for another server by now
            raise StoreUnavailable(f"{self.name} is a replica that cannot be written to: {error}") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.name} did not answer within {self.timeout} s") from error
        except FAILURES as error:
            raise StoreUnavailable(f"{self.name}: {error}") from error


def without_password(url: str) -> str:
    """The url as it may be shown, also where it is none."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
