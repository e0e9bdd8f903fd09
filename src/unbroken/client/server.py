"""Which server a chat talks to."""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_ROOT = "http://127.0.0.1:8080"  # where `unbroken serve` listens unless told otherwise
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


async def find_local_server(root: str = DEFAULT_ROOT) -> str | None:
    """The base URL of the Unbroken server that runs on this machine, None where there is none."""
    import httpx2

    async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT, trust_env=False) as client:
        try:
            response = await client.get(f"{root}/healthz")
            is_ours = response.status_code == 200 and response.json() == {"status": "ok"}
        except (httpx2.HTTPError, ValueError):
            return None
    return f"{root}/v1" if is_ours else None


async def running_server(base_url: str | None, api_key: str | None, environment: Mapping[str, str]) -> Server:
    """The server that is named, else the one that runs on this machine; raises ChatFailed where there is none."""
    from unbroken.chat.fault import Fault
    from unbroken.client.failure import ChatFailed

    if named := named_server(base_url, api_key, environment):
        return named
    if running := await find_local_server():
        return Server(running, local_key(api_key, environment))
    raise ChatFailed("No server runs here: name one with --base-url, or start `unbroken serve`.", Fault.CONNECT)


def _whole(url: str) -> str:
    """`localhost:11434` as `http://localhost:11434/v1`."""
    url = url if "://" in url else f"http://{url}"
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/{path.strip('/') or 'v1'}"
