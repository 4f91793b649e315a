"""Errors in the form that OpenAI's clients expect."""

from typing import Any


class ApiProblem(Exception):
    """An error reply: `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


def bad(param: str, message: str, code: str = "invalid_value") -> ApiProblem:
    """400 for one parameter."""
    return ApiProblem(400, message, param=param, code=code)


def unsupported(param: str, what: str) -> ApiProblem:
    """501: the real service has it, the sandbox does not, and says so."""
    message = f"The sandbox does not support {what}."
    return ApiProblem(501, message, param=param, code="unsupported", kind="sandbox_unsupported")


def refuse_unknown(body: dict[str, Any], known: tuple[str, ...]) -> None:
    """400 for the first parameter that is not known."""
    for name in body:
        if name not in known:
            raise bad(name, f"Unknown parameter: '{name}'.", "unknown_parameter")
