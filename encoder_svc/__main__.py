"""`python -m encoder_svc`: the encoder on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from encoder_svc.settings import THREAD_ENVIRONMENT, EncoderSettings
from sightline.rpc.services import Servicer
from sightline.rpc.standalone import run_standalone
from sightline.settings import environment, set_environment


def build(settings: EncoderSettings) -> Servicer:
    """The servicer; its module loads torch, which must find the environment that `main` sets for OpenMP."""
    from encoder_svc.servicer import build_servicer

    return build_servicer(settings)


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting is wrong."""
    for name, value in THREAD_ENVIRONMENT.items():
        set_environment(name, environment(name, default=value))
    return run_standalone("EncoderService", kind=EncoderSettings, build=build)


if __name__ == "__main__":
    sys.exit(main())
