"""The generator as a Ray Serve application: `generator_svc.deployment:app`."""

from __future__ import annotations

from functools import partial

from ray import serve
from ray.serve import Application

from generator_svc.servicer import build_servicer
from generator_svc.settings import GeneratorSettings
from sightline.rpc.serve_host import deployment_class
from sightline.settings import read_settings


def build_app(settings: GeneratorSettings) -> Application:
    """The application for these settings, which travel to every replica. Raises nothing before it runs."""
    deployment = serve.deployment(
        deployment_class(partial(build_servicer, settings), "GeneratorService"),
        name="GeneratorService",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        # A bounded queue of its own in every proxy, so that a full generator refuses instead of hoarding dialogues.
        max_queued_requests=settings.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.shutdown_s,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    )
    return deployment.bind()


app = build_app(read_settings(GeneratorSettings, section="generator"))
