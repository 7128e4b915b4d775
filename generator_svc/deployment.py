"""The generator as a Ray Serve application: `generator_svc.deployment:app`."""

from __future__ import annotations

from ray.serve import Application

from generator_svc.servicer import build_servicer
from generator_svc.settings import GeneratorSettings
from sightline.rpc.serve_host import serve_application
from sightline.settings import read_settings


def build_app(settings: GeneratorSettings) -> Application:
    """The application for these settings, which travel to every replica. Raises nothing before it runs."""
    return serve_application("GeneratorService", settings=settings, build=build_servicer, num_gpus=settings.num_gpus)


app = build_app(read_settings(GeneratorSettings, section="generator"))
