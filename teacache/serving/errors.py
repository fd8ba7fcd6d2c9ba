"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from functools import partial
from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: names the field, what is wrong with it, and what is allowed.
        param: the field, where there is one.
        code: for programs, where OpenAI has one.
        kind: OpenAI's `type`.
        retry_after: seconds until another try makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.kind = kind
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        optional: dict[str, Any] = {
            "param": self.param,
            "code": self.code,
            "kind": self.kind,
            "retry_after": self.retry_after,
        }
        return partial(ApiError, **optional), (self.status, str(self))

    @classmethod
    def field(cls, name: str, problem: str) -> ApiError:
        """Status 400 for the field `name`."""
        return cls(400, f"{name}: {problem}", param=name, code="invalid_value")

    @classmethod
    def stopping(cls) -> ApiError:
        """Status 503 for what a server that ends does not finish."""
        return cls(503, "the server is stopping", kind="server_error", code="stopping")

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers
