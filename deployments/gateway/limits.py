"""What is let in: the token, the size of a body."""

import hmac
from http import HTTPStatus

from starlette.requests import Request

from deployments.gateway.problems import Refused
from settings.serving import ServingKnobs


def check_token(request: Request, knobs: ServingKnobs) -> None:
    """Ask for the bearer token, if one is set.

    Raises:
        Refused: it is missing or wrong (401).
    """
    if knobs.token is None:
        return
    given = request.headers.get("authorization", "").encode()
    # The same time whatever is wrong with it, so that it cannot be guessed letter by letter.
    if not hmac.compare_digest(given, f"Bearer {knobs.token.get_secret_value()}".encode()):
        raise Refused(HTTPStatus.UNAUTHORIZED, "The bearer token is missing or wrong. Send `Authorization: Bearer …`.")


async def read_body(request: Request, knobs: ServingKnobs) -> bytes:
    """The body, never more of it than is allowed.

    Raises:
        Refused: it is larger (413).
    """
    most = knobs.max_body_kilobytes * 1024
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(announced, most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(f"more than {most}", most)
        parts.append(part)
    return b"".join(parts)


def check_candidates(count: int, knobs: ServingKnobs) -> None:
    """Refuse more candidates than are scored at once.

    Raises:
        Refused: there are more (422).
    """
    if count > knobs.max_candidates:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{count:,} candidates, and at most {knobs.max_candidates:,} are ranked at once "
            "(serving.max_candidates). Send fewer, or raise the limit.",
        )


def _too_large(size: str, most: int) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has {size} bytes, and at most {most} are read (serving.max_body_kilobytes). "
        "Send fewer candidates or features, or raise the limit.",
    )
