"""Any OpenAI-compatible endpoint: POST <base url>/v1/chat/completions, JSON schema asked for where it can be."""

from __future__ import annotations

import email.utils
import ipaddress
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from sightline.errors import SettingInvalid, UsageError
from sightline.language.answers import schema_of, without_surrogates
from sightline.language.asking import Completion, Conversation, Cost, Problem

NO_ANSWER = "no_answer"
MAX_ANSWER_BYTES = 1_000_000
MAX_RETRY_AFTER_S = 300.0
RESPONSE_FORMATS = ("json_schema", "json_object", "none")
_RETRIED = frozenset({408, 409, 425, 429})
_MISCONFIGURED = frozenset({401, 403, 404, 405})
_PATH = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Where the model is and how patient we are. Read from the section of who asks, such as `SIGHTLINE_TRIPLETS_*`."""

    base_url: str
    """Such as http://localhost:8000; a trailing /v1 is understood. Holds no user name, password or key."""
    model: str
    """As the endpoint calls it; pin a revision where it has some, since hosted models drift."""
    api_key: str = field(default="", repr=False)
    """Sent as a bearer token to `base_url` alone; written nowhere. Empty sends none."""
    temperature: float = 0.8
    """0 to 2: variety paid for with refused answers."""
    response_format: str = "json_schema"
    """Holds the model to: `json_schema`, `json_object`, or `none` for endpoints that know neither. The looser, the
    more answers are refused."""
    num_parallel: int = 16
    """1 to 64 requests at a time."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    """Longest one answer takes as a whole."""
    max_attempts: int = 3
    """1 to 10 requests for one answer, where requests fail."""
    backoff_s: float = 1.0
    """Upper end of the first wait, doubled with every further one."""
    max_backoff_s: float = 60.0

    def __post_init__(self) -> None:
        _check_range("num_parallel", self.num_parallel, 1, 64)
        _check_range("max_attempts", self.max_attempts, 1, 10)
        _check_range("temperature", self.temperature, 0, 2)
        for name in ("connect_timeout_s", "read_timeout_s", "backoff_s", "max_backoff_s"):
            _check_range(name, getattr(self, name), 0.001, 3600)
        if self.response_format not in RESPONSE_FORMATS:
            expected = ", ".join(RESPONSE_FORMATS)
            raise SettingInvalid(f"endpoint: response_format: got {self.response_format!r}, expected one of {expected}")
        if not self.model.strip():
            raise SettingInvalid("endpoint: model: got an empty name")
        if not all("!" <= letter <= "~" for letter in self.api_key):
            raise SettingInvalid("endpoint: api_key: holds a blank or a letter outside ASCII (the key is not shown)")
        _check_url(self.base_url)


@dataclass(frozen=True, kw_only=True)
class RewriteSettings(EndpointSettings):
    """The endpoint that captions and rewrites when a picture is searched for. Read from `SIGHTLINE_REWRITE_*`."""

    temperature: float = 0.0
    """0 to 2: the same ask should find the same pictures."""


class NoAnswer(Exception):
    """A request failed; the message holds no key."""

    def __init__(self, message: str, *, is_retried: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.is_retried, self.retry_after_s = is_retried, retry_after_s


class Endpoint:
    """A `LanguageModel` that asks an endpoint, one request a conversation. For concurrent use by threads."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        seed: int = 0,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = settings.model
        self._settings, self._closed, self._clock = settings, threading.Event(), clock
        self._sleep = sleep or self._closed.wait
        self._jitter = random.Random(seed)
        self._url = f"{settings.base_url.rstrip('/').removesuffix('/v1')}{_PATH}"
        self._client = _client(settings)

    def complete(self, conversations: Sequence[Conversation]) -> list[Completion]:
        """One completion a conversation, `num_parallel` of them asked for at a time.

        Raises UsageError if the endpoint refuses key, model or path.
        """
        if len(conversations) < 2:
            return [self._completion(one) for one in conversations]
        with ThreadPoolExecutor(self._settings.num_parallel, thread_name_prefix="endpoint") as pool:
            return list(pool.map(self._completion, conversations))

    def close(self) -> None:
        """End waits at once; requests under way end by themselves, within the read time-out."""
        self._closed.set()

    def _completion(self, conversation: Conversation) -> Completion:
        body = _body(conversation, settings=self._settings)
        for attempt in range(1, self._settings.max_attempts + 1):
            try:
                found = read_completion(self._post(body), max_tokens=conversation.max_tokens)
                return replace(found, cost=Cost(requests=attempt) + found.cost)
            except NoAnswer as error:
                failure = error
            if not failure.is_retried or self._closed.is_set() or attempt == self._settings.max_attempts:
                break
            self._sleep(self._wait_s(attempt, retry_after_s=failure.retry_after_s))
        detail = f"{failure} ({attempt} requests)"
        problem = Problem(reason=NO_ANSWER, detail=detail, is_final=False, is_failure=True)
        return Completion(problem=problem, cost=Cost(requests=attempt))

    def _wait_s(self, attempt: int, *, retry_after_s: float) -> float:
        """Full jitter under a ceiling that doubles, and never less than the endpoint asked for."""
        ceiling = min(self._settings.max_backoff_s, self._settings.backoff_s * 2 ** (attempt - 1))
        return max(retry_after_s, self._jitter.uniform(0, ceiling))

    def _post(self, body: Mapping[str, Any]) -> str:
        """The text of a successful response, without the key. Raises NoAnswer or UsageError."""
        deadline = self._clock() + self._settings.connect_timeout_s + self._settings.read_timeout_s
        try:
            with self._client.stream("POST", self._url, json=body) as response:
                text = self._redacted(self._read(response, deadline=deadline))
        except httpx.RequestError as error:
            raise NoAnswer(f"{type(error).__name__}: {self._redacted(str(error))}", is_retried=True) from None
        if response.status_code in _MISCONFIGURED or response.is_redirect:
            raise UsageError(f"{self._url}: answered {response.status_code}: {text[:200]}; check URL, model and key")
        if not response.is_success:
            is_retried = response.status_code in _RETRIED or response.status_code >= 500
            raise _refused(response, text=text, is_retried=is_retried)
        return text

    def _read(self, response: httpx.Response, *, deadline: float) -> str:
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                raise NoAnswer(f"the response is longer than {MAX_ANSWER_BYTES} bytes", is_retried=True)
            if self._clock() > deadline:
                raise NoAnswer(f"the response took longer than {self._settings.read_timeout_s} s", is_retried=True)
        return data.decode("utf-8", errors="replace")

    def _redacted(self, text: str) -> str:
        return text.replace(self._settings.api_key, "[key]") if self._settings.api_key else text


def read_completion(text: str, *, max_tokens: int) -> Completion:
    """What a chat completion says and cost, if it was not cut off. Raises NoAnswer if it is no chat completion."""
    try:
        found = json.loads(text)
        choice = found["choices"][0]
        content, reason = choice["message"].get("content"), choice.get("finish_reason")
        usage = found.get("usage") or {}
        cost = Cost(0, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ArithmeticError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise NoAnswer("the response is no chat completion", is_retried=True) from None
    if not isinstance(content, str) or not content.strip():
        return Completion(
            problem=Problem(reason="declined", detail="no answer was written", is_failure=True), cost=cost
        )
    if reason == "length":
        detail = f"the answer was cut off at {max_tokens} tokens"
        problem = Problem(reason="cut_off", detail=detail, is_failure=True)
        return Completion(text=without_surrogates(content), problem=problem, cost=cost)
    return Completion(text=without_surrogates(content), cost=cost)


def retry_after_s(value: str, *, now: float) -> float:
    """Seconds that a Retry-After header asks for, a number or a date, from 0 to `MAX_RETRY_AFTER_S`; 0 for neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return 0.0 if math.isnan(seconds) else min(MAX_RETRY_AFTER_S, max(0.0, seconds))


def _refused(response: httpx.Response, *, text: str, is_retried: bool) -> NoAnswer:
    wait_s = retry_after_s(response.headers.get("retry-after", ""), now=time.time())
    return NoAnswer(f"status {response.status_code}: {text[:200]}", is_retried=is_retried, retry_after_s=wait_s)


def _body(conversation: Conversation, *, settings: EndpointSettings) -> dict[str, Any]:
    return {
        "model": settings.model,
        "messages": list(conversation.messages),
        "temperature": settings.temperature,
        "max_tokens": conversation.max_tokens,
        "seed": conversation.seed,
        **_response_format(settings.response_format, fields=conversation.fields),
    }


def _response_format(name: str, *, fields: tuple[str, ...]) -> dict[str, Any]:
    if name == "none":
        return {}
    if name == "json_object":
        return {"response_format": {"type": name}}
    schema = {"name": "answer", "strict": True, "schema": schema_of(fields)}
    return {"response_format": {"type": name, "json_schema": schema}}


def _client(settings: EndpointSettings) -> httpx.Client:
    host = httpx.URL(settings.base_url).host
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    return httpx.Client(
        headers=headers,
        timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
        limits=httpx.Limits(max_connections=settings.num_parallel),
        follow_redirects=False,  # It would send texts, pictures, and maybe the key, where nobody said to.
        trust_env=not _is_loopback(host),  # No proxy stands between a machine and itself.
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingInvalid(f"endpoint: {name}: got {value}, limits {low} to {high}")


def _check_url(base_url: str) -> None:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise SettingInvalid("endpoint: base_url: is no URL") from None
    if url.userinfo or url.query or url.fragment:
        raise SettingInvalid("endpoint: base_url: holds more than host and path; a key goes to the setting api_key")
    if url.scheme not in {"http", "https"} or not url.host:
        raise SettingInvalid(f"endpoint: base_url: got {base_url!r}, expected http://host or https://host")
