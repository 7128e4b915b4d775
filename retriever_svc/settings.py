"""What the retriever can be told, from the variables `SIGHTLINE_RETRIEVER_*`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SettingInvalid
from sightline.rpc.encoder_peer import EncoderPeer
from sightline.rpc.tokens import Secret

DRIVERS = ("edge", "server")
QUANTIZATIONS = ("none", "scalar")
_POSITIVE = ("num_replicas", "optimize_after", "move_batch", "max_pending_writes", "poll_s", "qdrant_timeout_s")


@dataclass(frozen=True, kw_only=True)
class QdrantSettings:
    """Where the server driver finds its Qdrant, and how collections are made there."""

    url: str
    """URL of the server; https turns TLS on."""
    grpc_port: int
    """Its gRPC port."""
    api_key: Secret | None = None
    """Its API key."""
    ca_file: Path | None = None
    """PEM certificates that sign the server; none means the machine's own roots."""
    timeout_s: float = 10.0
    """Longest that one call may take."""
    collection: str = "images"
    """Name of the alias, and the start of every collection's name."""
    replication: int = 1
    """Copies of every point."""
    shards: int = 1
    """Parts of every collection."""
    quantization: str = "none"
    """ "none" or "scalar"."""


@dataclass(frozen=True, kw_only=True)
class RetrieverSettings(EncoderPeer):
    """Settings of the retriever. Filled by `read_settings(RetrieverSettings, section="retriever")`."""

    port: int = 50052
    """TCP port of the standalone host."""
    driver: str = "edge"
    """ "edge": the engine inside this process, on a folder of its own. "server": a Qdrant server or cluster."""
    num_replicas: int = 1
    """How many replicas Ray Serve runs; more than one needs the server driver."""
    num_cpus: float = 0.5
    """Ray Serve: cores that Ray books for a replica."""
    max_ongoing_requests: int = 128
    """Ray Serve: calls in one replica at once, and as many again wait in each proxy."""
    shutdown_s: float = 30.0
    """Ray Serve: longest time that a replica which is replaced gets to finish its calls."""
    path: Path = Path("var/index")
    """Folder of the edge driver, and of the stored pictures unless `pictures` is set."""
    pictures: str = ""
    """Where picture bytes are kept: a folder or an fsspec URI that every replica sees; empty is `<path>/pictures`."""
    collection: str = "images"
    """Name of the alias that answers, and the start of every collection's name."""
    optimize_after: int = 5000
    """Changed pictures after which the edge driver builds its index again: faster search for CPU time and disk."""
    lock_wait_s: float = 5.0
    """How long the edge driver waits for a process that is stopping to let go of the folder."""

    encoder_timeout_s: float = 30.0
    """Longest that one call to the encoder may take: a batch of pictures, not one."""

    qdrant_url: str = "http://127.0.0.1:6333"
    """URL of the Qdrant server; https turns TLS on."""
    qdrant_grpc_port: int = 6334
    """Its gRPC port; everything goes through it."""
    qdrant_api_key: Secret | None = None
    """Its API key; it travels in the clear unless the URL is https."""
    qdrant_ca_file: Path | None = None
    """PEM certificates that sign the server; none means the machine's own roots."""
    qdrant_timeout_s: float = 10.0
    """Longest that one call to Qdrant may take."""
    qdrant_replication: int = 1
    """Copies of every point in the cluster."""
    qdrant_shards: int = 1
    """Parts of every collection in the cluster."""
    qdrant_quantization: str = "none"
    """ "scalar" keeps int8 copies in memory and rescores with the originals: memory against recall."""

    poll_s: float = 1.0
    """How often the encoder is asked whether it serves another embedding space."""
    move_batch: int = 32
    """Stored pictures that a move encodes at once; more is faster and leaves less of the encoder to others."""
    retire_after_s: float = 60.0
    """How long a collection is kept after the switch; longer than any search takes."""
    max_pending_writes: int = 8
    """Most UpsertImages calls under way; each holds up to 64 MiB. One more is refused with QUEUE_FULL."""

    def __post_init__(self) -> None:
        _check_choice("driver", self.driver, choices=DRIVERS)
        _check_choice("qdrant_quantization", self.qdrant_quantization, choices=QUANTIZATIONS)
        if self.driver == "edge" and self.num_replicas > 1:
            raise SettingInvalid(
                f"num_replicas: got {self.num_replicas}, limit 1 with driver 'edge', whose folder takes one process; "
                "several replicas need driver 'server' and a Qdrant server"
            )
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise SettingInvalid(f"{name}: got {getattr(self, name)}, expected more than 0")

    @property
    def pictures_uri(self) -> str:
        """Where picture bytes are kept."""
        return self.pictures or str(self.path / "pictures")

    def qdrant(self) -> QdrantSettings:
        """Where the server driver finds its Qdrant."""
        return QdrantSettings(
            url=self.qdrant_url,
            grpc_port=self.qdrant_grpc_port,
            api_key=self.qdrant_api_key,
            ca_file=self.qdrant_ca_file,
            timeout_s=self.qdrant_timeout_s,
            collection=self.collection,
            replication=self.qdrant_replication,
            shards=self.qdrant_shards,
            quantization=self.qdrant_quantization,
        )


def _check_choice(name: str, value: str, *, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingInvalid(f"{name}: got {value!r}, expected one of {', '.join(choices)}")
