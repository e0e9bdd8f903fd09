"""`data:` URLs with base64, by which this dialect carries images and files. Source: RFC 2397."""

import re

_DATA_URL = re.compile(r"data:(?P<type>[^,]*?);base64,", re.I)


def read_data_url(url: str) -> tuple[str | None, str] | None:
    """The media type (None where it is not said) and the base64 data; None for any other URL."""
    if (found := _DATA_URL.match(url, 0, 512)) is None:
        return None
    return found["type"] or None, url[found.end() :]


def write_data_url(media_type: str | None, data: str) -> str:
    """The URL of base64 data."""
    return f"data:{media_type or ''};base64,{data}"
