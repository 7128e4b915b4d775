"""`python -m retriever_svc`: the retriever on the standalone host, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from retriever_svc.building import build_servicer
from retriever_svc.settings import RetrieverSettings
from sightline.rpc.standalone import run_standalone


def main() -> int:
    """Exit code: 0 after a drained stop, 2 if a setting or the index folder is wrong."""
    return run_standalone("RetrieverService", kind=RetrieverSettings, build=build_servicer)


if __name__ == "__main__":
    sys.exit(main())
