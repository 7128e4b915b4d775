"""The retriever as a Ray Serve application: `retriever_svc.deployment:app`."""

from __future__ import annotations

from ray.serve import Application

from retriever_svc.building import build_servicer
from retriever_svc.settings import RetrieverSettings
from sightline.rpc.serve_host import serve_application
from sightline.settings import read_settings


def build_app(settings: RetrieverSettings) -> Application:
    """The application for these settings, which travel to every replica. Raises nothing before it runs."""
    return serve_application("RetrieverService", settings=settings, build=build_servicer)


app = build_app(read_settings(RetrieverSettings, section="retriever"))
