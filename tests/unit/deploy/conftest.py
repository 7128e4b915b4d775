"""A small kustomize: what our manifests use of it, and no more, so that every machine can render them.

`test_rendering_equals_kubectl` holds it to the real one wherever that is installed.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
KNOWN_KEYS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "configMapGenerator",
    "configurations",
    "patches",
    "images",
}
CLUSTER_SCOPED = {"Namespace"}

Object = dict[str, Any]


class Rendering:
    """The objects of one kustomization, before generated names get their suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = yaml.safe_load((folder / "kustomization.yaml").read_text())
        unknown = set(self.spec) - KNOWN_KEYS
        assert not unknown, f"{folder.name}: this renderer does not know {sorted(unknown)}"
        self.objects: list[Object] = []
        self.generated: set[str] = set()
        self.name_paths: list[tuple[str, str]] = []
        self._gather()
        self._generate()
        for patch in self.spec.get("patches", []):
            self._patch(patch)
        self._place()
        self._tag_images()

    def _gather(self) -> None:
        for name in self.spec["resources"]:
            path = self.folder / name
            if path.is_dir():
                inner = Rendering(path.resolve())
                self.objects += inner.objects
                self.generated |= inner.generated
                self.name_paths += inner.name_paths
            else:
                self.objects += list(yaml.safe_load_all(path.read_text()))
        for name in self.spec.get("configurations", []):
            for reference in yaml.safe_load((self.folder / name).read_text())["nameReference"]:
                assert reference["kind"] == "ConfigMap"
                self.name_paths += [(field["kind"], field["path"]) for field in reference["fieldSpecs"]]

    def _generate(self) -> None:
        for generator in self.spec.get("configMapGenerator", []):
            lines = [line for name in generator["envs"] for line in (self.folder / name).read_text().splitlines()]
            data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
            if generator.get("behavior") == "merge":
                self._find("ConfigMap", generator["name"])["data"].update(data)
                continue
            metadata = {"name": generator["name"]}
            self.objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
            self.generated.add(generator["name"])

    def _find(self, kind: str, name: str) -> Object:
        return next(each for each in self.objects if each["kind"] == kind and each["metadata"]["name"] == name)

    def _patch(self, patch: Object) -> None:
        text = patch["patch"] if "patch" in patch else (self.folder / patch["path"]).read_text()
        targets = [each for each in self.objects if is_target(each, patch["target"])]
        assert targets, f"{self.folder.name}: a patch meets nothing: {patch['target']}"
        for target in targets:
            for operation in yaml.safe_load(text):
                apply_operation(target, copy.deepcopy(operation))

    def _place(self) -> None:
        namespace = self.spec.get("namespace")
        for each in self.objects:
            if namespace and each["kind"] not in CLUSTER_SCOPED:
                each["metadata"]["namespace"] = namespace

    def _tag_images(self) -> None:
        for image in self.spec.get("images", []):
            for container in (found for each in self.objects for found in containers(each)):
                if container["image"].split(":")[0] == image["name"]:
                    container["image"] = f"{image['name']}:{image['newTag']}"

    def finished(self) -> list[Object]:
        """The objects with generated names suffixed and referred to by that suffix."""
        for name in self.generated:
            config_map = self._find("ConfigMap", name)
            text = json.dumps(config_map["data"], sort_keys=True)
            suffixed = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
            config_map["metadata"]["name"] = suffixed
            for kind, path in self.name_paths:
                for each in self.objects:
                    if each["kind"] == kind:
                        replace_at(each, path.split("/"), old=name, new=suffixed)
        return self.objects


def is_target(candidate: Object, target: Object) -> bool:
    group = candidate["apiVersion"].rpartition("/")[0]
    is_named = re.fullmatch(target.get("name", ".*"), candidate["metadata"]["name"])
    return bool(is_named) and target["kind"] == candidate["kind"] and target.get("group", group) == group


def apply_operation(target: Any, operation: Object) -> None:
    """One operation of RFC 6902: add or replace."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        assert operation["op"] == "add", "this renderer appends to lists and no more"
        assert last == "-"
        target.append(operation["value"])
        return
    assert operation["op"] == "add" or last in target, f"nothing to replace at {operation['path']}"
    target[last] = operation["value"]


def replace_at(node: Any, path: list[str], *, old: str, new: str) -> None:
    if isinstance(node, list):
        for each in node:
            replace_at(each, path, old=old, new=new)
    elif path[1:] and path[0] in node:
        replace_at(node[path[0]], path[1:], old=old, new=new)
    elif not path[1:] and node.get(path[0]) == old:
        node[path[0]] = new


def containers(node: Any) -> Iterator[Object]:
    """Every container below `node`, in custom resources too."""
    if isinstance(node, list):
        for each in node:
            yield from containers(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in {"containers", "initContainers"}:
                yield from value
            else:
                yield from containers(value)


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder of manifests."""
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def render(deploy: Path) -> Callable[[str], list[Object]]:
    """The finished objects of a kustomization, a copy for each caller: `render("overlays/local")`."""

    @functools.cache
    def text(name: str) -> str:
        return json.dumps(Rendering((deploy / "kubernetes" / name).resolve()).finished())

    return lambda name: list(json.loads(text(name)))


@pytest.fixture(scope="session")
def find_containers() -> Callable[[Any], Iterator[Object]]:
    return containers
