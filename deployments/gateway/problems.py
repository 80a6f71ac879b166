"""Errors as answers: a status, a title, and a sentence that says what to do."""

from http import HTTPStatus

import orjson
from pydantic import ValidationError
from starlette.responses import Response

_CODES = {
    HTTPStatus.BAD_REQUEST: "BAD_REQUEST",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "BAD_REQUEST",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "BAD_REQUEST",
    HTTPStatus.UNPROCESSABLE_ENTITY: "BAD_REQUEST",
    HTTPStatus.SERVICE_UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "TEMPORARILY_UNAVAILABLE",
}


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, detail: str, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.request_id = request_id


def problem(refused: Refused) -> Response:
    """The answer to a request that is refused (RFC 9457, with MLflow's ``error_code``)."""
    content = {
        "type": "about:blank",
        "title": refused.status.phrase,
        "status": int(refused.status),
        "detail": refused.detail,
        "error_code": _CODES.get(refused.status, "INTERNAL_ERROR"),
        "request_id": refused.request_id,
    }
    headers = {"WWW-Authenticate": "Bearer"} if refused.status is HTTPStatus.UNAUTHORIZED else {}
    return Response(
        orjson.dumps(content), status_code=int(refused.status), media_type="application/problem+json", headers=headers
    )


def explained(error: ValidationError) -> str:
    """What is wrong with a request, in one sentence; never its values, which may be personal."""
    found = []
    for detail in error.errors(include_input=False, include_url=False)[:3]:
        place = ".".join(str(part) for part in detail["loc"])
        found.append(f"{place}: {detail['msg']}" if place else detail["msg"])
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "") + ". See /docs for an example."
