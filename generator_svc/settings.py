"""What the generator can be told, from `SIGHTLINE_GENERATOR_<FIELD>` or `SIGHTLINE_<FIELD>`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SettingInvalid
from sightline.rpc.channels import ChannelSettings
from sightline.rpc.encoder_peer import EncoderPeer
from sightline.rpc.tokens import Secret

_SPARE_CALLS = 16
"""Ray Serve: calls that a replica takes beyond those it answers, so that they are refused here and by name."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(EncoderPeer):
    """Where releases come from, who is asked for pictures, and how much is decoded at once."""

    registry: str = "var/registry"
    """Folder or URI of the releases."""

    channel: str = "stable"
    """Channel whose release answers."""

    cache_dir: Path = Path("var/cache/generator")
    """Folder into which releases are fetched."""

    poll_s: float = 2.0
    """How often the channel is looked at: the delay of a new release, paid with reads of the registry."""

    port: int = 50053
    """TCP port of the standalone host; Ray Serve has its own."""

    device: str = "cpu"
    """Where the model computes, as torch names it: "cpu", "cuda", "cuda:1"."""

    compute_dtype: str = "auto"
    """"float32", "bfloat16" or "auto", which takes bfloat16 where the machine multiplies it in hardware."""

    retriever_address: str = "127.0.0.1:50052"
    """`host:port` of the retriever."""
    retriever_application: str = "retriever"
    """Ray Serve application of the retriever."""
    retriever_timeout_s: float = 10.0
    """Longest that one call to the retriever may take; a nearer deadline of the caller wins."""
    retriever_token: Secret | None = None
    """Bearer token for the retriever."""
    retriever_is_tls: bool = False
    """Whether the retriever speaks TLS."""
    retriever_ca_file: Path | None = None
    """PEM certificates that sign the retriever; none means the machine's own roots."""

    min_score: float | None = None
    """Least similarity of a retrieved picture where the caller names none, -1 to 1. Higher answers more dialogues
    from text alone; -1 always looks at k pictures. None looks at all k if the best reaches what the release was
    calibrated to, else at none."""

    no_repeat_ngram: int = 0
    """Tokens in a row that a reply may say once only; zero allows all. Small numbers forbid names from coming twice."""

    repetition_penalty: float = 1.0
    """Over 1 makes what a reply has said less likely to be said again."""

    default_timeout_s: float = 60.0
    """Time for a reply whose caller names no deadline."""

    space_wait_s: float = 10.0
    """Longest wait for a release of the space in which retriever or encoder answer: they may enter a new one first.
    Zero asks once more at once and then refuses."""

    max_concurrent_replies: int = 0
    """Replies that decode at once, a thread each; zero takes as many as there are cores. More make each one slower."""

    max_queued_replies: int = 64
    """Replies that may wait beyond those that decode; one more is refused with QUEUE_FULL."""

    threads_per_reply: int = 1
    """Cores of one decoding step. More than one pays for large decoders only."""

    flush_ms: float = 30.0
    """Longest that decoded text waits for more text of the same chunk."""

    flush_tokens: int = 16
    """Most tokens of one chunk."""

    shutdown_s: float = 60.0
    """Ray Serve: longest time that a replica which is replaced gets to finish its replies."""

    num_replicas: int = 1
    """Ray Serve: replicas, each with a model of its own."""

    num_cpus: float = 1.0
    """Ray Serve: cores that Ray sets aside for a replica; a booking, not a limit."""

    num_gpus: float = 0.0
    """Ray Serve: devices that Ray sets aside for a replica."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a value outside its range."""
        if self.min_score is not None:
            _check(self.min_score, name="min_score", least=-1, most=1)
        _check(self.no_repeat_ngram, name="no_repeat_ngram", least=0)
        _check(self.repetition_penalty, name="repetition_penalty", least=0.01, most=100)
        for name in ("threads_per_reply", "flush_tokens", "num_replicas"):
            _check(getattr(self, name), name=name, least=1)
        for name in ("port", "max_concurrent_replies", "max_queued_replies", "flush_ms", "space_wait_s", "shutdown_s"):
            _check(getattr(self, name), name=name, least=0)
        for name in ("poll_s", "default_timeout_s", "retriever_timeout_s", "encoder_timeout_s"):
            _check(getattr(self, name), name=name, least=0.001)

    @property
    def num_decoders(self) -> int:
        """Replies that decode at once, on the machine that asks."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.max_concurrent_replies or cores

    @property
    def max_replies(self) -> int:
        """Replies that decode or wait."""
        return self.num_decoders + self.max_queued_replies

    @property
    def max_ongoing_requests(self) -> int:
        """Ray Serve: calls in one replica at once."""
        return self.max_replies + _SPARE_CALLS

    def retriever_channel(self) -> ChannelSettings:
        """How the retriever is spoken to."""
        return ChannelSettings(
            address=self.retriever_address,
            application=self.retriever_application,
            timeout_s=self.retriever_timeout_s,
            token=self.retriever_token,
            is_tls=self.retriever_is_tls,
            tls_ca_file=self.retriever_ca_file,
        )


def _check(value: float, *, name: str, least: float, most: float = float("inf")) -> None:
    if not least <= value <= most:
        limit = f"at least {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
        raise SettingInvalid(f"{name}: got {value}, expected {limit}")
