"""An HTTP refusal: a status and the API's error object.  Step 3 of a packet's path.

It knows HTTP statuses and the form of the error object; not why a request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shared.parts import Json

RETRY_S = 2  # when a client is asked to try again: an engine with a warm cache restarts in this time


class HttpProblem(Exception):
    """A request that is refused; the routes raise it and `answer` turns it into the response.

    `param`: the field that was wrong.  `retry_s`: after how many seconds the client may try again; by default RETRY_S
    with status 503, else never."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        if retry_s is None and status == 503:
            retry_s = RETRY_S
        self.headers = {**({} if retry_s is None else {"Retry-After": str(retry_s)}), **(headers or {})}

    @property
    def body(self) -> Json:
        """The error object of the API."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer to an HTTP request, or to a WebSocket upgrade that is refused."""
        return JSONResponse(self.body, self.status, self.headers)


async def answer(_: Request, problem: Exception) -> Response:
    """Starlette's exception handler for HttpProblem."""
    assert isinstance(problem, HttpProblem)
    return problem.response()
