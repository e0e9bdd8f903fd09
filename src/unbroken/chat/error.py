"""The errors that a caller can get from us, before any dialect puts them into its own words."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ApiError:
    """An answer that is an error: HTTP status and the four words of an error envelope."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    #: Extra response headers, such as `retry-after` or `allow`.
    headers: Mapping[str, str] = field(default_factory=dict)


class RequestRefused(Exception):
    """The request cannot be served; carries the `ApiError` that says why."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def invalid(message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> RequestRefused:
    """The refusal of a request that is not what the dialect asks for."""
    return RequestRefused(ApiError(status, message, "invalid_request_error", code, param))
