"""A stand-in for an OpenAI-compatible server on loopback, which misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
Behaviour = Callable[[int, dict[str, Any]], Reply]
"""(number of the request from 0, its body) -> status, headers, bytes."""


@dataclass
class StandIn:
    """What a running server was asked."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)


def caption_in(body: dict[str, Any]) -> str:
    """The caption that the last question of a request asks about."""
    questions = [message["content"] for message in body["messages"] if "<scene>" in message["content"]]
    return str(json.loads(questions[-1].split("<scene>")[1].split("</scene>")[0]))


def completion(content: str, *, finish_reason: str = "stop") -> Reply:
    """A chat completion that says `content`, of 100 and 20 tokens."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


def edit_of(body: dict[str, Any]) -> Reply:
    """A good answer."""
    target = f"{caption_in(body)} under a red kite"
    return completion(json.dumps({"modification": "let a kite fly above", "target_caption": target}))


@contextmanager
def served(behaviour: Behaviour) -> Iterator[StandIn]:
    """A server for as long as the block runs."""
    lock, released = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(seen.requests)
                seen.requests.append(body)
                seen.authorizations.append(self.headers.get("authorization", ""))
            status, headers, data = behaviour(number, body)
            if status == 0:  # Never answers.
                released.wait(timeout=5)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.end_headers()
                self.wfile.write(data)  # Who asked may have given up.

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = StandIn(base_url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_until(is_true: Callable[[], bool], *, limit_s: float = 20.0) -> None:
    """Return once `is_true`; fail after `limit_s`."""
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.01)
