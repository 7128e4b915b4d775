"""Where the services are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.errors import UsageError
from sightline.rpc.channels import ChannelSettings
from sightline.rpc.services import APPLICATIONS
from sightline.rpc.tokens import Secret


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Addresses, `host:port`, of services that are hosted each by itself; leave out what is not called."""

    encoder: str = ""
    """The encoder."""
    retriever: str = ""
    """The retriever."""
    generator: str = ""
    """The generator."""

    @classmethod
    def at(cls, address: str) -> Endpoints:
        """Every service behind one address, as Ray Serve or a proxy offers them."""
        return cls(encoder=address, retriever=address, generator=address)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How the services prove who they are, and the client to them."""

    ca_file: Path | None = None
    """PEM certificates that sign the services; None trusts the machine's own roots."""
    cert_file: Path | None = None
    """PEM certificate of this client, for mTLS; goes together with `key_file`."""
    key_file: Path | None = None
    """PEM private key of this client."""
    server_name: str = ""
    """Name that the services' certificates carry, if it is not the one in the address."""


def channel_settings(
    service: str, *, endpoints: Endpoints, token: str | None, timeout_s: float, tls: Tls | None
) -> ChannelSettings:
    """How to reach the service with this bare name. Raises UsageError if the endpoints leave it out."""
    application = APPLICATIONS[service]
    address = getattr(endpoints, application)
    if not address:
        raise UsageError(f"endpoints.{application}: got nothing, but the {application} is called")
    files = tls or Tls()
    return ChannelSettings(
        address=address,
        application=application,
        timeout_s=timeout_s,
        token=Secret(token) if token is not None else None,
        is_tls=tls is not None,
        tls_ca_file=files.ca_file,
        tls_cert_file=files.cert_file,
        tls_key_file=files.key_file,
        tls_server_name=files.server_name,
    )
