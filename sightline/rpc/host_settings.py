"""How the standalone host listens, whom it lets in and how it stops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from sightline.errors import SettingInvalid
from sightline.limits import MAX_MESSAGE_BYTES
from sightline.rpc.tokens import Secret, checked_token, read_tokens
from sightline.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Settings of an AioHost. Filled by `read_settings(HostSettings, section="host")`."""

    bind: str = "127.0.0.1"
    """Address to listen on. Listening beyond this machine is a decision, so it is not the default."""
    port: int = 0
    """TCP port; zero takes a free one."""
    tls_cert_file: Path | None = None
    """PEM certificate chain of the server. Together with `tls_key_file` it turns TLS on."""
    tls_key_file: Path | None = None
    """PEM private key of the server."""
    tls_client_ca_file: Path | None = None
    """PEM certificates by which clients must be signed; set, it asks every client for a certificate (mTLS)."""
    tokens: tuple[Secret, ...] = ()
    """Bearer tokens that may call, 16 characters or more; several, so that they can be changed without a gap."""
    token_file: Path | None = None
    """A file with one token a line, read once at start; its tokens and `tokens` are both valid."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """Largest request or reply; more memory a call against larger batches."""
    max_concurrent: int = 256
    """Most calls that run at once; one more is refused with QUEUE_FULL."""
    grace_s: float = 25.0
    """Longest time that running calls get to finish at a stop; below the 30 s of Kubernetes."""
    drain_notice_s: float = 0.0
    """Time between NOT_SERVING and the first refused call, so that balancers can look away first."""
    health_poll_s: float = 0.2
    """How often readiness is asked for and told to those who watch health."""
    metrics_port: int = 0
    """Port of the Prometheus metrics; zero serves none."""

    def __post_init__(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingInvalid("tls_cert_file and tls_key_file go together; one of them is not set")
        if self.tls_client_ca_file is not None and not self.is_tls:
            raise SettingInvalid("tls_client_ca_file needs tls_cert_file and tls_key_file")
        for name in ("max_message_bytes", "max_concurrent", "health_poll_s"):
            if getattr(self, name) <= 0:
                raise SettingInvalid(f"{name}: got {getattr(self, name)}, expected more than 0")
        for number, token in enumerate(self.tokens, start=1):
            checked_token(token, where=f"tokens, number {number}")

    @property
    def is_tls(self) -> bool:
        """True if the port speaks TLS."""
        return self.tls_cert_file is not None

    def read_tokens(self) -> tuple[Secret, ...]:
        """Every token that may call. Raises SettingInvalid if the token file cannot be used."""
        from_file = read_tokens(self.token_file) if self.token_file is not None else ()
        return (*self.tokens, *from_file)


def read_host_settings() -> HostSettings:
    """The host's settings from the process environment: `SIGHTLINE_HOST_<FIELD>`, else `SIGHTLINE_<FIELD>`."""
    return read_settings(HostSettings, section="host")


def server_credentials(settings: HostSettings) -> grpc.ServerCredentials:
    """TLS, or mTLS if a client CA is set. Raises SettingInvalid naming the file that cannot be read."""
    assert settings.tls_cert_file is not None
    assert settings.tls_key_file is not None
    pair = (read_pem(settings.tls_key_file), read_pem(settings.tls_cert_file))
    client_ca = read_pem(settings.tls_client_ca_file) if settings.tls_client_ca_file is not None else None
    return grpc.ssl_server_credentials([pair], root_certificates=client_ca, require_client_auth=client_ca is not None)


def read_pem(path: Path) -> bytes:
    """The bytes of a PEM file. Raises SettingInvalid if it cannot be read or is no PEM."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingInvalid(f"TLS file {path}: {type(error).__name__}") from error
    if b"-----BEGIN " not in data:
        raise SettingInvalid(f"TLS file {path} is no PEM file")
    return data
