"""What the encoder service can be told, from `SIGHTLINE_ENCODER_<FIELD>` or `SIGHTLINE_<FIELD>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from encoder_svc.batching import BatchSettings
from sightline.errors import SettingInvalid
from sightline.limits import (
    MAX_COMPOSED_PER_CALL,
    MAX_EDIT_TEXTS,
    MAX_PICTURES_PER_CALL,
    MAX_TEXTS_PER_CALL,
)

THREAD_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""What OpenMP must find when torch loads. By default its threads spin while they wait for each other, which starves
whatever shares the cores, the decoding of pictures first: with another busy process on two cores a forward pass of 32
short texts took 1400 to 2000 ms spinning and 220 to 310 ms sleeping."""

MOST_TEXTS_OF_A_CALL = max(MAX_TEXTS_PER_CALL, MAX_COMPOSED_PER_CALL * (1 + MAX_EDIT_TEXTS))
"""A call of composed queries needs the plain vectors of one joined sentence and all negative texts of each."""

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Where releases come from, and how calls share the machine."""

    registry: str = "var/registry"
    """Folder or URI of the releases."""

    channel: str = "stable"
    """Channel whose release answers."""

    cache_dir: Path = Path("var/cache/encoder")
    """Folder into which releases are fetched."""

    poll_s: float = 2.0
    """How often the channel is looked at: the delay of a new release, paid with reads of the registry."""

    port: int = 50051
    """TCP port of the standalone host; Ray Serve has its own."""

    device: str = "cpu"
    """Where the model computes, as torch names it: "cpu", "cuda", "cuda:1"."""

    compute_dtype: str = "auto"
    """"float32", "bfloat16" or "auto", which takes bfloat16 where the machine multiplies it in hardware."""

    threads_per_forward: int = 0
    """Cores of one forward pass; zero leaves it to torch: OMP_NUM_THREADS, else every core."""

    decode_threads: int = 0
    """Pictures decoded at once; zero takes as many as a forward pass has cores."""

    max_text_batch: int = 64
    """Most texts of one forward pass."""

    max_image_batch: int = 16
    """Most pictures of one forward pass."""

    max_composed_batch: int = 32
    """Most composed queries of one forward pass."""

    max_queued_texts: int = 2048
    """Most texts accepted and not yet answered, over all callers; a call beyond is refused with QUEUE_FULL."""

    max_queued_images: int = 256
    """Most pictures accepted and not yet answered, over all callers; their bytes wait in memory."""

    max_queued_composed: int = 512
    """Most composed queries accepted and not yet answered, over all callers; their pictures wait in memory."""

    max_wait_ms: float = 4.0
    """Longest an item waits, on an idle machine, for as much company as the last batch had."""

    text_cache_bytes: int = 32 * _MIB
    """Memory for the vectors of texts seen before; zero keeps none."""

    image_cache_bytes: int = 256 * _MIB
    """Memory for the vectors and tokens of pictures seen before; zero keeps none."""

    max_ongoing_requests: int = 128
    """Ray Serve: calls in one replica at once. Less than a batch and batches never fill."""

    shutdown_s: float = 30.0
    """Ray Serve: longest time that a replica which is replaced gets to finish its calls."""

    num_replicas: int = 1
    """Ray Serve: replicas, each with a model of its own."""

    num_cpus: float = 1.0
    """Ray Serve: cores that Ray books for a replica; unless `threads_per_forward` is set, it computes on as many."""

    num_gpus: float = 0.0
    """Ray Serve: devices that Ray sets aside for a replica."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a value outside its range."""
        _check_least(self.max_queued_texts, name="max_queued_texts", least=MOST_TEXTS_OF_A_CALL)
        _check_least(self.max_queued_images, name="max_queued_images", least=MAX_PICTURES_PER_CALL)
        _check_least(self.max_queued_composed, name="max_queued_composed", least=MAX_COMPOSED_PER_CALL)
        for name in ("max_ongoing_requests", "num_replicas"):
            _check_least(getattr(self, name), name=name, least=1)
        for name in ("port", "threads_per_forward", "decode_threads", "text_cache_bytes", "image_cache_bytes"):
            _check_least(getattr(self, name), name=name, least=0)
        if self.poll_s <= 0:
            raise SettingInvalid(f"poll_s: got {self.poll_s}, expected more than 0")
        assert self.text_batches
        assert self.image_batches
        assert self.composed_batches

    @property
    def text_batches(self) -> BatchSettings:
        """How texts are batched."""
        return BatchSettings(
            max_batch=self.max_text_batch, max_queue=self.max_queued_texts, max_wait_ms=self.max_wait_ms
        )

    @property
    def image_batches(self) -> BatchSettings:
        """How pictures are batched."""
        return BatchSettings(
            max_batch=self.max_image_batch, max_queue=self.max_queued_images, max_wait_ms=self.max_wait_ms
        )

    @property
    def composed_batches(self) -> BatchSettings:
        """How composed queries are batched."""
        return BatchSettings(
            max_batch=self.max_composed_batch, max_queue=self.max_queued_composed, max_wait_ms=self.max_wait_ms
        )


def _check_least(value: float, *, name: str, least: float) -> None:
    if value < least:
        raise SettingInvalid(f"{name}: got {value}, expected at least {least}")
