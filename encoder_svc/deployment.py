"""The encoder as a Ray Serve application: `encoder_svc.deployment:app`."""

from __future__ import annotations

from ray.serve import Application

from encoder_svc.servicer import build_servicer
from encoder_svc.settings import THREAD_ENVIRONMENT, EncoderSettings
from sightline.rpc.serve_host import serve_application
from sightline.settings import read_settings


def build_app(settings: EncoderSettings) -> Application:
    """The application for these settings, which travel to every replica. Raises nothing before it runs."""
    return serve_application(
        "EncoderService",
        settings=settings,
        build=build_servicer,
        num_gpus=settings.num_gpus,
        runtime_env={"env_vars": THREAD_ENVIRONMENT},
    )


app = build_app(read_settings(EncoderSettings, section="encoder"))
