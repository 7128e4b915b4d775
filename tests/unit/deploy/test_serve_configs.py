"""Ray accepts every Serve configuration, finds every application in it, and the trainer every argument of its job."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]
Render = Callable[[str], list[Object]]


@pytest.fixture(scope="module")
def configs(deploy: Path, render: Render) -> dict[str, Object]:
    """Every Serve configuration: the local cluster's, and each RayService's."""
    services = (each for each in render("overlays/production") if each["kind"] == "RayService")
    found = {each["metadata"]["name"]: yaml.safe_load(each["spec"]["serveConfigV2"]) for each in services}
    return found | {"local": yaml.safe_load((deploy / "ray" / "serve.yaml").read_text())}


@pytest.mark.slow
def test_ray_reads_every_configuration_with_no_field_left_over(configs: dict[str, Object]) -> None:
    from ray.serve.schema import ServeDeploySchema

    assert len(configs) == 4
    for name, config in configs.items():
        schema = ServeDeploySchema.model_validate(config)
        assert [application.name for application in schema.applications] == [
            application["name"] for application in config["applications"]
        ]
        read = schema.model_dump(exclude_unset=True)
        assert set(config) == set(read), name
        assert set(config["grpc_options"]) == set(read["grpc_options"]), name


@pytest.mark.slow
def test_the_local_cluster_admits_every_service_of_the_contract(configs: dict[str, Object]) -> None:
    from sightline.rpc.serve_host import DEFAULT_PORT, servicer_functions

    assert sorted(configs["local"]["grpc_options"]["grpc_servicer_functions"]) == sorted(servicer_functions())
    assert {config["grpc_options"]["port"] for config in configs.values()} == {DEFAULT_PORT}


@pytest.mark.slow
def test_every_application_can_be_imported_and_has_the_deployment(configs: dict[str, Object]) -> None:
    applications = {each["name"]: each["import_path"] for each in configs["local"]["applications"]}
    for name, path in applications.items():
        (application,) = configs[name]["applications"]
        assert application["import_path"] == path
    code = (
        "import importlib, sys\n"
        "from ray.serve import Application\n"
        "for path in sys.argv[1:]:\n"
        "    module, _, name = path.partition(':')\n"
        "    assert isinstance(getattr(importlib.import_module(module), name), Application), path\n"
    )
    command = [sys.executable, "-c", code, *applications.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_trainer_understands_what_its_job_tells_it(deploy: Path, render: Render) -> None:
    from trainer.overrides import apply_overrides
    from trainer.recipes import recipe

    (job,) = render("train")
    program, arguments = job["spec"]["entrypoint"].split()[:4], job["spec"]["entrypoint"].split()[4:]
    assert program == ["python", "-m", "trainer", "fit"]
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["trainer"]["command"]
    for name, *rest in (arguments, compose[1:]):
        config = apply_overrides(recipe(name), arguments=rest)
        assert config.registry == "/var/lib/sightline/registry"
        assert config.channel == "stable"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert apply_overrides(recipe(arguments[0]), arguments=arguments[1:]).run.num_workers <= group["replicas"]
