"""Bearer tokens: held masked, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import SettingInvalid, TokenInvalid

_MIN_CHARS = 16


class Secret(str):
    """A text that must not be printed: its repr and its formatted form are masked; `reveal` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def reveal(self) -> str:
        """The text itself."""
        return str.__str__(self)


def read_tokens(path: Path) -> tuple[Secret, ...]:
    """The tokens of a file, one a line; empty lines and lines that begin with # are passed over.

    Raises SettingInvalid, naming file and line but never the token, if the file
    cannot be read, holds none, or holds one under 16 characters.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"token file {path}: {type(error).__name__}") from error
    tokens = []
    for number, line in enumerate(lines, start=1):
        token = line.strip()
        if token and not token.startswith("#"):
            tokens.append(checked_token(token, where=f"{path}:{number}"))
    if not tokens:
        raise SettingInvalid(f"token file {path} holds no token")
    return tuple(tokens)


def checked_token(token: str, *, where: str) -> Secret:
    """`token` as a Secret. Raises SettingInvalid, naming `where`, if it is short or not plain ASCII."""
    text = token.reveal() if isinstance(token, Secret) else token
    if len(text) < _MIN_CHARS or not (text.isascii() and text.isprintable()) or " " in text:
        raise SettingInvalid(f"{where}: a token is {_MIN_CHARS} or more printable ASCII characters without blanks")
    return Secret(text)


class TokenCheck:
    """Decides whether an `authorization` header may pass. Without tokens every call passes."""

    def __init__(self, tokens: Sequence[Secret] = ()) -> None:
        self._tokens = tuple(token.reveal().encode() for token in tokens)

    def __repr__(self) -> str:
        return f"TokenCheck({len(self._tokens)} tokens)"

    def check(self, authorization: str) -> None:
        """Raise TokenInvalid unless `authorization` is `Bearer <one of the tokens>`."""
        if not self._tokens:
            return
        scheme, _, given = authorization.partition(" ")
        offered = given.strip().encode()
        # Every token is compared, so that time does not tell which one came near.
        matches = [hmac.compare_digest(offered, token) for token in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise TokenInvalid("authorization: the bearer token is missing or unknown")
