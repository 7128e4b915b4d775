"""When a failed call is tried again, and after which pause.

gRPC's own retries by service config stop once response headers have come, and
never repeat a request over 256 KiB. Ray Serve sends headers with every error
and pictures are larger, so our callers retry here; the service config holds the
same rule for clients of other makes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from sightline.errors import QueueFull, SightlineError

MAX_ATTEMPTS = 4
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
_JITTER = 0.2


class RetryBudget:
    """Stops retries where most calls fail: gRPC's throttle of 10 tokens, one a failure, a tenth back a success."""

    def __init__(self, *, max_tokens: float = 10.0, token_ratio: float = 0.1) -> None:
        self._max_tokens = max_tokens
        self._token_ratio = token_ratio
        self._tokens = max_tokens

    def succeed(self) -> None:
        """Count a call that went well."""
        self._tokens = min(self._max_tokens, self._tokens + self._token_ratio)

    def fail(self) -> bool:
        """Count a call that failed; True if it may be tried again."""
        self._tokens = max(0.0, self._tokens - 1.0)
        return self._tokens > self._max_tokens / 2


def pause_before(attempt: int, *, error: SightlineError, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before attempt number `attempt`, from 2.

    What a full queue asked for, else 0.1, 0.2, 0.4 and so on, give or take a
    fifth. `draw` gives numbers from 0 up to 1.
    """
    if isinstance(error, QueueFull):
        return error.retry_after_s
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 2))
    return pause_s * (1 - _JITTER + 2 * _JITTER * draw())
