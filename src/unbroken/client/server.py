"""Which server a chat talks to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unbroken.chat.fault import Fault
from unbroken.client.failure import ChatFailed

PROBE_TIMEOUT = 0.5  # s; it is this machine


@dataclass(frozen=True, slots=True)
class Server:
    """A base URL and the key to send with it."""

    base_url: str
    api_key: str | None = None


def named_server(base_url: str | None, api_key: str | None, environment: Mapping[str, str]) -> Server | None:
    """The server that the options or the environment name, None where they name none."""
    url = base_url or environment.get("UNBROKEN_BASE_URL") or environment.get("OPENAI_BASE_URL")
    key = api_key or environment.get("UNBROKEN_API_KEY") or environment.get("OPENAI_API_KEY")
    return Server(_whole(url), key) if url else None


def local_key(api_key: str | None, environment: Mapping[str, str]) -> str | None:
    """The key for a server that was only found: never the one that is meant for OpenAI."""
    return api_key or environment.get("UNBROKEN_API_KEY")


async def find_local_server(root: str | None, others: Sequence[str] = ()) -> str | None:
    """The base URL of the Unbroken server at `root`, else of the one among the others; None where there is none.

    Raises:
        ChatFailed: there are several others.
    """
    if root is not None and await _is_ours(root):
        return f"{root}/v1"
    found = [f"{other}/v1" for other in others if await _is_ours(other)]
    if len(found) > 1:
        said = f"Several gateways run here: say which with --base-url: {', '.join(found)}"
        raise ChatFailed(said, Fault.CONNECT)
    return found[0] if found else None


async def _is_ours(root: str) -> bool:
    import httpx2

    async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT, trust_env=False) as client:
        try:
            response = await client.get(f"{root}/healthz")
            return response.status_code == 200 and bool(response.json() == {"status": "ok"})
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
            return False


def _whole(url: str) -> str:
    """`localhost:11434` as `http://localhost:11434/v1`."""
    url = url if "://" in url else f"http://{url}"
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/{path.strip('/') or 'v1'}"
