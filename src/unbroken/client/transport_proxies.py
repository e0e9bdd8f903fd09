"""The proxies that the environment names, as httpx finds them for a client without a transport of its own."""

import ipaddress
from collections.abc import Mapping


def proxy_mounts(proxies: Mapping[str, str]) -> dict[str, str | None]:
    """URL patterns, and the proxy of each or None; `proxies` is what `urllib.request.getproxies` gives."""
    mounts: dict[str, str | None] = {}
    for scheme in ("http", "https", "all"):
        if named := proxies.get(scheme):
            mounts[f"{scheme}://"] = named if "://" in named else f"http://{named}"
    without = [host for part in proxies.get("no", "").split(",") if (host := part.strip())]
    if not mounts or "*" in without:
        return {}
    return mounts | {_pattern(host): None for host in without}


def _pattern(host: str) -> str:
    if "://" in host:
        return host
    if host.lower() == "localhost":
        return f"all://{host}"
    try:
        address = ipaddress.ip_address(host.partition("/")[0])
    except ValueError:
        return f"all://*{host}"
    return f"all://[{host}]" if address.version == 6 else f"all://{host}"
