"""`python -m generator_svc`: the generator on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from generator_svc.servicer import build_servicer
from generator_svc.settings import GeneratorSettings
from sightline.rpc.standalone import run_standalone


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting is wrong."""
    return run_standalone("GeneratorService", kind=GeneratorSettings, build=build_servicer)


if __name__ == "__main__":
    sys.exit(main())
