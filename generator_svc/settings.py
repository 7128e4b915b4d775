"""What the generator service can be told, from `SIGHTLINE_GENERATOR_<FIELD>` or `SIGHTLINE_<FIELD>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SettingInvalid


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """Where releases come from, who is asked for pictures, and how much is decoded at once."""

    registry: str = "var/registry"
    """Folder or URI of the releases."""

    channel: str = "stable"
    """Channel whose release answers."""

    cache_dir: Path = Path("var/cache/generator")
    """Folder into which releases are fetched."""

    retriever_address: str = "127.0.0.1:50052"
    """host:port of the retriever, or of the gRPC ingress before it."""

    encoder_address: str = "127.0.0.1:50051"
    """host:port of the encoder, or of the gRPC ingress before it."""

    compute_dtype: str = "auto"
    """"float32", "bfloat16" or "auto", which takes bfloat16 where the machine multiplies it in hardware."""

    min_score: float = -1.0
    """Least similarity of a retrieved picture where the caller names none, -1 to 1. Higher answers more
    dialogues from text alone; -1 always looks at k pictures."""

    dependency_timeout_s: float = 10.0
    """Longest wait for one answer of retriever or encoder; a nearer deadline of the caller wins."""

    default_timeout_s: float = 60.0
    """Time for a reply whose caller names no deadline."""

    space_wait_s: float = 10.0
    """Longest wait for the release of the space in which the retriever answers, which it may have entered
    first. Zero asks once more at once and then gives up."""

    max_concurrent_replies: int = 4
    """Replies that decode at once, a thread each: more share the cores, so each is slower."""

    max_queued_replies: int = 64
    """Replies that may wait beyond those that decode; one more is refused with QUEUE_FULL."""

    threads_per_reply: int = 1
    """Threads that one step may use. More than one pays for large decoders only."""

    flush_ms: float = 30.0
    """Longest that decoded text waits for more text of the same chunk."""

    flush_tokens: int = 16
    """Most tokens of one chunk."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a value outside its range."""
        _check(self.min_score, name="min_score", low=-1, high=1)
        _check(self.max_concurrent_replies, name="max_concurrent_replies", low=1, high=1024)
        _check(self.max_queued_replies, name="max_queued_replies", low=0, high=100_000)
        _check(self.threads_per_reply, name="threads_per_reply", low=1, high=1024)
        _check(self.flush_tokens, name="flush_tokens", low=1, high=256)
        for name in ("dependency_timeout_s", "default_timeout_s", "space_wait_s", "flush_ms"):
            _check(getattr(self, name), name=name, low=0, high=86_400_000)


def _check(value: float, *, name: str, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingInvalid(f"{name}: got {value}, expected {low} to {high}")
