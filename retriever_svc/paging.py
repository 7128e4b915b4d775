"""Page tokens: where the next page begins, sealed so that a foreign or altered one is known."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import uuid

from retriever_svc.index import Where
from sightline.errors import PageTokenInvalid

_SEAL_BYTES = 8
_TOKEN_BYTES = 16 + _SEAL_BYTES


def page_token(start: uuid.UUID | None, *, where: Where | None) -> str:
    """The token of the page that begins at the point id `start`; empty for None. It holds for one filter."""
    if start is None:
        return ""
    return base64.urlsafe_b64encode(start.bytes + _seal(start, where)).decode()


def page_start(token: str, *, where: Where | None) -> uuid.UUID | None:
    """The point id at which the page of `token` begins; None for an empty one.

    Raises PageTokenInvalid if the token was not made here, or for another filter.
    """
    if not token:
        return None
    try:
        data = base64.urlsafe_b64decode(token.encode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise _invalid(token) from error
    if len(data) != _TOKEN_BYTES:
        raise _invalid(token)
    start = uuid.UUID(bytes=data[:16])
    if data[16:] != _seal(start, where):
        raise _invalid(token)
    return start


def _seal(start: uuid.UUID, where: Where | None) -> bytes:
    claims = json.dumps(dataclasses.asdict(where or Where()), sort_keys=True).encode()
    return hashlib.blake2b(start.bytes + claims, digest_size=_SEAL_BYTES, person=b"sightline-page").digest()


def _invalid(token: str) -> PageTokenInvalid:
    return PageTokenInvalid(f"page_token: {token[:64]!r} was not issued for this list", value=token[:64])
