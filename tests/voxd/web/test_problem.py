"""An HTTP refusal: the API's error object, and when to try again."""

from __future__ import annotations

import json

import pytest

from voxd.web.problem import RETRY_S, HttpProblem


@pytest.mark.parametrize(
    ("problem", "kind", "retry"),
    [
        (HttpProblem(400, "invalid_value", "wrong", "language"), "invalid_request_error", None),
        (HttpProblem(429, "rate_limit_exceeded", "wait", retry_s=40), "invalid_request_error", "40"),
        (HttpProblem(503, "engine_loading", "soon"), "server_error", str(RETRY_S)),
        (HttpProblem(503, "no_transcriber", "never", retry_s=300), "server_error", "300"),
    ],
)
def test_a_refusal_is_the_error_object_and_says_when_to_try_again(
    problem: HttpProblem, kind: str, retry: str | None
) -> None:
    answer = problem.response()
    expected = {"message": str(problem), "type": kind, "param": problem.param, "code": problem.code}
    assert json.loads(bytes(answer.body)) == {"error": expected}
    assert (answer.status_code, answer.headers.get("retry-after")) == (problem.status, retry)
