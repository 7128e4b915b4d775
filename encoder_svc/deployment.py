"""The encoder as a Ray Serve application: `encoder_svc.deployment:app`."""

from __future__ import annotations

from functools import partial

from ray import serve
from ray.serve import Application

from encoder_svc.servicer import build_servicer
from encoder_svc.settings import THREAD_ENVIRONMENT, EncoderSettings
from sightline.rpc.serve_host import deployment_class
from sightline.settings import read_settings


def build_app(settings: EncoderSettings) -> Application:
    """The application for these settings, which travel to every replica. Raises nothing before it runs."""
    deployment = serve.deployment(
        deployment_class(partial(build_servicer, settings), "EncoderService"),
        name="EncoderService",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        # A bounded queue of its own in every proxy, so that a full encoder refuses instead of hoarding pictures.
        max_queued_requests=settings.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.shutdown_s,
        ray_actor_options={
            "num_cpus": settings.num_cpus,
            "num_gpus": settings.num_gpus,
            "runtime_env": {"env_vars": THREAD_ENVIRONMENT},
        },
    )
    return deployment.bind()


app = build_app(read_settings(EncoderSettings, section="encoder"))
