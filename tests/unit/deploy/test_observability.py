"""Alerts and panels ask for metrics that somebody exports."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from sightline.registry.metrics import ReloadMetrics
from sightline.rpc.telemetry import CallMetrics

METRIC = re.compile(r"\b((?:sightline|ray_serve)_[a-z_]+)\b")


@pytest.fixture(scope="module")
def expressions(deploy: Path) -> list[str]:
    """Every PromQL expression of the alerts and the dashboard."""
    groups = yaml.safe_load((deploy / "observability" / "rules.yaml").read_text())["groups"]
    dashboard = json.loads((deploy / "observability" / "dashboard.json").read_text())
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    return found + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_our_metrics_are_exported(expressions: list[str]) -> None:
    registry = CollectorRegistry()
    CallMetrics(registry).observe("m", code="OK", seconds=0.1)
    metrics = ReloadMetrics(registry)
    metrics.count("stable", result="swapped")
    metrics.set_generation("stable", generation=1)
    exported = {sample.name for family in registry.collect() for sample in family.samples}
    asked = {name for text in expressions for name in METRIC.findall(text) if name.startswith("sightline_")}
    assert asked <= exported
    assert len(asked) == 4


def test_rays_metrics_are_those_of_its_own_dashboard(expressions: list[str]) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = "\n".join(path.read_text() for path in folder.glob("serve*_panels.py"))
    asked = {name for text in expressions for name in METRIC.findall(text) if name.startswith("ray_serve_")}
    assert len(asked) >= 4
    assert [name for name in asked if name not in known] == []


def test_every_rule_has_a_name_of_its_own_and_every_alert_a_summary(deploy: Path) -> None:
    groups = yaml.safe_load((deploy / "observability" / "rules.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    names = [rule.get("alert") or rule["record"] for rule in rules]
    assert len(set(names)) == len(names)
    recorded = {rule["record"] for rule in rules if "record" in rule}
    assert {found for rule in rules for found in re.findall(r"sightline:\S+:5m", rule["expr"])} <= recorded
    for alert in (rule for rule in rules if "alert" in rule):
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]


def test_prometheus_scrapes_the_ports_that_compose_opens(deploy: Path) -> None:
    scrapes = yaml.safe_load((deploy / "observability" / "prometheus.yaml").read_text())["scrape_configs"]
    services = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    targets = {target for scrape in scrapes for each in scrape["static_configs"] for target in each["targets"]}
    ours = {
        f"{name}:{service['environment']['SIGHTLINE_HOST_METRICS_PORT']}"
        for name, service in services.items()
        if "SIGHTLINE_HOST_METRICS_PORT" in service.get("environment", {})
    }
    assert targets == ours | {"qdrant:6333"}
