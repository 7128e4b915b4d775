"""How a service that depends on the encoder is told where it is; one part of its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.rpc.channels import ChannelSettings
from sightline.rpc.tokens import Secret


@dataclass(frozen=True, kw_only=True)
class EncoderPeer:
    """Where the encoder is and how it is spoken to. Settings of services inherit it."""

    encoder_address: str = "127.0.0.1:50051"
    """`host:port` of the encoder."""
    encoder_application: str = "encoder"
    """Ray Serve application of the encoder."""
    encoder_timeout_s: float = 10.0
    """Longest that one call to the encoder may take; a nearer deadline of the caller wins."""
    encoder_token: Secret | None = None
    """Bearer token for the encoder."""
    encoder_is_tls: bool = False
    """Whether the encoder speaks TLS."""
    encoder_ca_file: Path | None = None
    """PEM certificates that sign the encoder; none means the machine's own roots."""

    def encoder_channel(self) -> ChannelSettings:
        """How the encoder is spoken to."""
        return ChannelSettings(
            address=self.encoder_address,
            application=self.encoder_application,
            timeout_s=self.encoder_timeout_s,
            token=self.encoder_token,
            is_tls=self.encoder_is_tls,
            tls_ca_file=self.encoder_ca_file,
        )
