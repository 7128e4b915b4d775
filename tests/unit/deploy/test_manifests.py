"""What manifests say of our code and of each other is true: ports, names, paths, settings, sizes."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from encoder_svc.settings import EncoderSettings
from generator_svc.settings import GeneratorSettings
from retriever_svc.settings import RetrieverSettings
from sightline.rpc.host_settings import HostSettings
from sightline.rpc.telemetry import LogSettings
from sightline.settings import read_settings

Object = dict[str, Any]
Render = Callable[[str], list[Object]]
FindContainers = Callable[[Any], Iterator[Object]]

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("encoder", "retriever", "generator")
OVERLAYS = ("base", "overlays/local", "overlays/production")
SECTIONS: dict[str, type[Any]] = {
    "encoder": EncoderSettings,
    "retriever": RetrieverSettings,
    "generator": GeneratorSettings,
    "host": HostSettings,
    "log": LogSettings,
}


def ray_services(objects: list[Object]) -> dict[str, Object]:
    return {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "RayService"}


def serve_config(service: Object) -> Object:
    config = yaml.safe_load(service["serveConfigV2"])
    assert isinstance(config, dict)
    return config


def group_templates(service: Object) -> dict[str, Object]:
    cluster = service["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"], **{each["groupName"]: each for each in cluster["workerGroupSpecs"]}}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def pod_templates(node: Any) -> Iterator[Object]:
    """Every pod specification below `node`."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pod_templates(value)
    elif isinstance(node, list):
        for each in node:
            yield from pod_templates(each)


def settings_of(objects: list[Object]) -> dict[str, str]:
    """The variables of every Ray pod: the ConfigMap's, and a stand-in for each secret."""
    (config_map,) = (each for each in objects if each["kind"] == "ConfigMap")
    variables = dict(config_map["data"])
    for service in ray_services(objects).values():
        for pod in group_templates(service).values():
            variables |= {each["name"]: "a-secret-of-16-characters" for each in pod["containers"][0].get("env", [])}
    return variables


@pytest.fixture(scope="module")
def compose(deploy: Path) -> Object:
    return dict(yaml.safe_load((deploy / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def local_serve(deploy: Path) -> Object:
    return dict(yaml.safe_load((deploy / "ray" / "serve.yaml").read_text()))


@pytest.fixture(scope="module")
def environments(deploy: Path, render: Render, compose: Object, local_serve: Object) -> dict[str, dict[str, str]]:
    """Every set of variables that some process of a manifest starts with."""
    dockerfile = (deploy / "docker" / "Dockerfile").read_text()
    image = dict(re.findall(r"(SIGHTLINE_[A-Z0-9_]+)=(\S+)", dockerfile))
    found = {f"kubernetes/{name}": settings_of(render(name)) for name in OVERLAYS}
    found |= {f"compose/{name}": image | compose["services"][name]["environment"] for name in SERVICES}
    for application in local_serve["applications"]:
        found[f"ray/{application['name']}"] = application["runtime_env"]["env_vars"]
    return found


def test_every_yaml_file_parses(deploy: Path) -> None:
    paths = [path for pattern in ("*.yaml", "*.yml") for path in deploy.rglob(pattern)]
    assert len(paths) > 15
    for path in paths:
        assert list(yaml.safe_load_all(path.read_text())), path


def test_every_variable_is_a_setting_and_every_value_is_valid(environments: dict[str, dict[str, str]]) -> None:
    assert len(environments) == 9
    for variables in environments.values():
        for section, kind in SECTIONS.items():
            read_settings(kind, section=section, environ=variables)


def test_every_variable_is_read_by_somebody(environments: dict[str, dict[str, str]]) -> None:
    known = {
        f"SIGHTLINE_{prefix}{field.upper()}"
        for section, kind in SECTIONS.items()
        for field in kind.__dataclass_fields__
        for prefix in ("", f"{section.upper()}_")
    }
    unread = {variable for variables in environments.values() for variable in variables if variable not in known}
    assert unread == set()


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_have_the_names_that_kuberay_looks_for(render: Render, name: str) -> None:
    for service in ray_services(render(name)).values():
        config = serve_config(service)
        expected = {"serve": config["http_options"]["port"], "serve-grpc": config["grpc_options"]["port"]}
        for pod in group_templates(service).values():
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert expected.items() <= ports.items()
            assert "metrics" in ports
        front = {port["name"]: port for port in service["serveService"]["spec"]["ports"]}
        assert {key: port["targetPort"] for key, port in front.items()} == expected
        assert front["serve-grpc"]["appProtocol"] == "kubernetes.io/h2c"
        assert service["excludeHeadPodFromServeSvc"] is True


def test_each_ray_service_runs_one_application_under_the_name_that_callers_send(render: Render) -> None:
    services = ray_services(render("base"))
    assert set(services) == set(SERVICES)
    for name, service in services.items():
        (application,) = serve_config(service)["applications"]
        assert application["name"] == name
    assert RetrieverSettings().encoder_application == "encoder"
    assert GeneratorSettings().encoder_application == "encoder"
    assert GeneratorSettings().retriever_application == "retriever"


def test_the_local_cluster_runs_three_applications_with_names_of_their_own(local_serve: Object) -> None:
    names = [application["name"] for application in local_serve["applications"]]
    routes = {application["route_prefix"] for application in local_serve["applications"]}
    assert names == list(SERVICES)
    assert len(routes) == 3


def test_the_local_cluster_books_no_more_than_two_cores(environments: dict[str, dict[str, str]]) -> None:
    booked = 0.0
    for name in SERVICES:
        settings = read_settings(SECTIONS[name], section=name, environ=environments[f"ray/{name}"])
        booked += settings.num_cpus * settings.num_replicas
    assert booked <= 2.0


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_replicas_fit_their_workers(render: Render, name: str) -> None:
    objects = render(name)
    for section, service in ray_services(objects).items():
        settings = read_settings(SECTIONS[section], section=section, environ=settings_of(objects))
        (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
        cores = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        assert group["minReplicas"] == group["maxReplicas"] == group["replicas"]
        assert settings.num_replicas <= group["replicas"] * (cores // settings.num_cpus), section
        assert service["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_several_replicas_of_the_retriever_never_share_an_edge_folder(environments: dict[str, dict[str, str]]) -> None:
    for name, variables in environments.items():
        settings = read_settings(RetrieverSettings, section="retriever", environ=variables)
        assert settings.driver == "server" or settings.num_replicas == 1, name
        if name.startswith("kubernetes/") or name == "compose/retriever":
            assert settings.driver == "server", name


@pytest.mark.parametrize("name", OVERLAYS)
def test_addresses_in_the_cluster_are_those_of_its_services(render: Render, name: str) -> None:
    objects = render(name)
    grpc_port = {f"{service}-serve-svc": {9000} for service in ray_services(objects)}
    core = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in objects
        if each["kind"] == "Service"
    }
    addresses = [value for key, value in settings_of(objects).items() if key.endswith(("_ADDRESS", "_URL"))]
    assert len(addresses) == 4
    for address in addresses:
        host, _, port = address.rpartition("//")[2].partition(":")
        assert int(port) in (grpc_port | core)[host]
    backends = [
        backend
        for each in objects
        if each["kind"] == "GRPCRoute"
        for rule in each["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    assert all(backend["port"] in grpc_port[backend["name"]] for backend in backends)


def test_addresses_in_compose_are_those_of_its_services(compose: Object) -> None:
    ports = {"encoder": "50051", "retriever": "50052", "generator": "50053", "qdrant": "6333"}
    for name in SERVICES:
        service = compose["services"][name]
        for key, value in service["environment"].items():
            if key.endswith(("_ADDRESS", "_URL")):
                host, _, port = value.rpartition("//")[2].partition(":")
                assert ports[host] == port
                assert host in service["depends_on"]
        assert service["ports"] == [f"127.0.0.1:{ports[name]}:{ports[name]}"]
        assert service["healthcheck"]["test"][-1] == f"127.0.0.1:{ports[name]}"
        assert SECTIONS[name]().port == int(ports[name])


def test_the_front_door_sends_each_contract_to_its_application(render: Render) -> None:
    (route,) = (each for each in render("overlays/production") if each["kind"] == "GRPCRoute")
    seen = {}
    for rule in route["spec"]["rules"]:
        (header,) = rule["filters"][0]["requestHeaderModifier"]["set"]
        assert header["name"] == "application"
        assert rule["backendRefs"][0]["name"] == f"{header['value']}-serve-svc"
        seen[rule["matches"][0]["method"]["service"]] = header["value"]
    assert seen == {f"sightline.v1.{name.title()}Service": name for name in SERVICES}


def named_modules(deploy: Path) -> set[str]:
    texts = [path.read_text() for path in deploy.rglob("*") if path.is_file()]
    found = {module for text in texts for module in re.findall(r"import_path: ([\w.]+):app", text)}
    found |= {module for text in texts for module in re.findall(r"python3? -m ([\w.]+)", text)}
    return found | {module for text in texts for module in re.findall(r'"?-m"?, "?([\w.]+)', text)}


def test_every_module_that_a_manifest_names_exists(deploy: Path) -> None:
    modules = named_modules(deploy)
    assert {f"{name}_svc.deployment" for name in SERVICES} <= modules
    assert {"encoder_svc", "retriever_svc", "generator_svc", "trainer", "sightline.rpc.probe"} <= modules
    assert [module for module in modules - {"pip"} if importlib.util.find_spec(module) is None] == []
    runnable = {f"{module}.__main__" for module in modules if module in {"trainer", *(f"{s}_svc" for s in SERVICES)}}
    assert [module for module in runnable if importlib.util.find_spec(module) is None] == []


def test_every_servicer_function_that_a_manifest_names_is_there(deploy: Path) -> None:
    texts = [path.read_text() for path in deploy.rglob("*.yaml")]
    functions = {found for text in texts for found in re.findall(r"- (sightline\.\S+\.add_\w+)", text)}
    assert len(functions) == 3
    for function in functions:
        module, _, name = function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", [*OVERLAYS, "train"])
def test_every_pod_is_locked_down(render: Render, name: str) -> None:
    pods = list(pod_templates(render(name)))
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_pods_mount_is_there(render: Render, name: str) -> None:
    objects = render(name) + render("train")
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    config_maps = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    templates = {
        claim["metadata"]["name"] for each in objects for claim in each.get("spec", {}).get("volumeClaimTemplates", [])
    }
    for pod in pod_templates(objects):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "registry") in claims
        for container in pod["containers"]:
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= set(volumes) | templates
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= config_maps


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_read_the_registry_and_the_trainer_writes_it(render: Render, name: str) -> None:
    for service, spec in ray_services(render(name)).items():
        mounts = {mount["name"]: mount for mount in group_templates(spec)["replicas"]["containers"][0]["volumeMounts"]}
        assert mounts.get("registry", {"readOnly": True})["readOnly"] is True
        assert ("registry" in mounts) == (service != "retriever")
    (job,) = render("train")
    for pod in pod_templates(job):
        (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "registry")
        assert "readOnly" not in mount
        assert f"--registry {mount['mountPath']}" in job["spec"]["entrypoint"]


def test_the_secrets_of_production_are_named_at_its_head(deploy: Path, render: Render) -> None:
    text = (deploy / "kubernetes" / "overlays" / "production" / "kustomization.yaml").read_text()
    documented = set(re.findall(r"secret (\S+):", text))
    used = re.findall(r"'(?:secretName|secretKeyRef': \{[^}]*'name)': '([^']+)'", str(render("overlays/production")))
    used += re.findall(r"certificateRefs': \[\{'name': '([^']+)'", str(render("overlays/production")))
    assert documented == set(used)


def test_calls_get_the_time_to_end(render: Render, compose: Object) -> None:
    for name, service in ray_services(render("base")).items():
        settings = SECTIONS[name]()
        assert service["rayClusterDeletionDelaySeconds"] > serve_config(service)["grpc_options"]["request_timeout_s"]
        assert group_templates(service)["replicas"]["terminationGracePeriodSeconds"] > settings.shutdown_s
        grace_s = float(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > HostSettings().grace_s


def test_versions_are_the_projects_own(
    deploy: Path, render: Render, compose: Object, find_containers: FindContainers
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = (each for each in project["dependencies"] if each.startswith("ray["))
    for each in render("base") + render("train"):
        cluster = each.get("spec", {}).get("rayClusterConfig") or each.get("spec", {}).get("rayClusterSpec")
        assert cluster is None or cluster["rayVersion"] == ray.partition("==")[2]
    images = [container["image"] for each in render("base") + render("train") for container in find_containers(each)]
    images += [service["image"] for service in compose["services"].values()]
    ours = {image for image in images if image.startswith("sightline-")}
    assert ours == {f"sightline-{name}:{project['version']}" for name in (*SERVICES, "trainer")}
    (qdrant,) = {image for image in images if image.startswith("qdrant/")}
    version = re.match(r"qdrant/qdrant:v(\d+)\.(\d+)\.\d+-unprivileged$", qdrant)
    assert version is not None
    assert tuple(map(int, version.groups())) >= (1, 19)
    assert not any(image.endswith(":latest") or ":" not in image for image in images)


def test_no_manifest_names_a_host_outside(deploy: Path) -> None:
    inside = {"qdrant", "127.0.0.1"}
    for path in deploy.rglob("*.yaml"):
        hosts = re.findall(r"https?://([\w.-]+)", path.read_text())
        assert set(hosts) <= inside, path
