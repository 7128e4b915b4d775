"""The retriever as a Ray Serve application: `retriever_svc.deployment:app`."""

from __future__ import annotations

from functools import partial

from ray import serve
from ray.serve import Application

from retriever_svc.building import build_servicer
from retriever_svc.settings import RetrieverSettings
from sightline.rpc.serve_host import deployment_class
from sightline.settings import read_settings


def build_app(settings: RetrieverSettings) -> Application:
    """The application for these settings, which travel to every replica."""
    deployment = serve.deployment(
        deployment_class(partial(build_servicer, settings), "RetrieverService"),
        name="RetrieverService",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.shutdown_s,
        ray_actor_options={"num_cpus": settings.num_cpus},
    )
    return deployment.bind()


app = build_app(read_settings(RetrieverSettings, section="retriever"))
