"""What stands in for uvicorn's events and flow control: the same with less memory."""

import asyncio

import pytest

from unbroken.gateway.exchange import Flag, write_headers

pytestmark = pytest.mark.anyio


async def waiting(flag: Flag) -> asyncio.Task[None]:
    """A task that waits for the flag, and has begun to."""
    task = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    return task


async def test_a_flag_that_is_set_lets_through() -> None:
    flag = Flag(is_set=True)
    assert (await waiting(flag)).done()


async def test_a_flag_wakes_all_who_wait() -> None:
    flag = Flag()
    first, second = await waiting(flag), await waiting(flag)
    assert not first.done()
    assert not second.done()
    flag.set()
    await asyncio.gather(first, second)


async def test_a_flag_that_was_cleared_makes_wait_again() -> None:
    flag = Flag(is_set=True)
    flag.clear()
    late = await waiting(flag)
    assert not late.done()
    flag.set()
    await late


async def test_who_gives_up_waiting_takes_nobody_along() -> None:
    flag = Flag()
    given_up, other = await waiting(flag), await waiting(flag)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    flag.set()
    await other


async def test_a_flag_may_be_set_and_cleared_before_the_waiters_run() -> None:
    flag = Flag()
    late = await waiting(flag)
    flag.set()
    flag.clear()
    await late


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
def test_a_header_is_one_line(value: bytes) -> None:
    with pytest.raises(ValueError, match="line end"):
        write_headers([(b"x-told", value)])
