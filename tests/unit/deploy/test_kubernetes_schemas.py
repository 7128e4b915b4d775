"""Every rendered object is one that Kubernetes and KubeRay accept."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

Object = dict[str, Any]
Render = Callable[[str], list[Object]]

KUSTOMIZATIONS = ["base", "train", "overlays/local", "overlays/production"]
FOREIGN_GROUPS = {"gateway.networking.k8s.io"}
"""Groups whose schemas are at hand neither here nor in `kubernetes-validate`."""
KUBERNETES_VERSION = "1.33"


def is_core(each: Object) -> bool:
    return each["apiVersion"].split("/")[0] not in {"ray.io", *FOREIGN_GROUPS}


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_core_object_fits_kubernetes(render: Render, name: str) -> None:
    for each in filter(is_core, render(name)):
        kubernetes_validate.validate(each, KUBERNETES_VERSION, strict=True)


def test_the_schemas_catch_a_misspelt_field(render: Render) -> None:
    stateful_set = copy.deepcopy(next(each for each in render("base") if each["kind"] == "StatefulSet"))
    stateful_set["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful_set, KUBERNETES_VERSION, strict=True)


@pytest.fixture(scope="module")
def crds(shared_data: Path) -> dict[str, Object]:
    """The strict schema of each of KubeRay's kinds: no field that the operator does not know."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = {}
    for path in sorted((shared_data / "kuberay_crds").glob("*.yaml")):
        crd = yaml.load(path.read_text(), Loader=loader)
        version = next(each for each in crd["spec"]["versions"] if each["name"] == "v1")
        schemas[crd["spec"]["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    return schemas


def closed(schema: Any) -> Any:
    """The schema as the server's strict field validation reads it, and int-or-string as either."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return made


@pytest.mark.data
@pytest.mark.slow
def test_every_ray_object_fits_its_definition(crds: dict[str, Object], render: Render) -> None:
    seen = set()
    for each in (each for name in KUSTOMIZATIONS for each in render(name) if each["apiVersion"] == "ray.io/v1"):
        body = {key: value for key, value in each.items() if key != "metadata"}
        jsonschema.Draft202012Validator(crds[each["kind"]]).validate(body)
        seen.add((each["kind"], each["metadata"]["name"]))
    services = {("RayService", name) for name in ("encoder", "retriever", "generator")}
    assert seen == services | {("RayJob", "trainer")}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["spec/rayClusterConfig/headGroupSpec/rayStartParms", "spec/upgradeStrategie", "spec/serveConfigV3"]
)
def test_the_definitions_catch_a_misspelt_field(crds: dict[str, Object], render: Render, path: str) -> None:
    service = copy.deepcopy(next(each for each in render("base") if each["kind"] == "RayService"))
    *parents, last = path.split("/")
    node = service
    for part in parents:
        node = node[part]
    node[last] = {}
    body = {key: value for key, value in service.items() if key != "metadata"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(crds["RayService"]).validate(body)


@pytest.mark.slow
@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_rendering_equals_kubectl(deploy: Path, render: Render, name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the small renderer of these tests is not compared with it")
    command = [kubectl, "kustomize", str(deploy / "kubernetes" / name)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert ordered(yaml.safe_load_all(text)) == ordered(render(name))


def ordered(objects: Iterator[Object] | list[Object]) -> list[Object]:
    """The objects by kind and name, with the two renderers' different suffixes made equal."""
    made = [
        yaml.safe_load(re.sub(r"(sightline-settings)-[a-z0-9]{10}", r"\1-x", yaml.safe_dump(each))) for each in objects
    ]
    return sorted(made, key=lambda each: (each["kind"], each["metadata"]["name"]))
