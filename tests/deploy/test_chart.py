"""The chart renders what a cluster takes: with Helm itself, and the schemas of Kubernetes, strictly."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from blockyard_server.settings import Settings
from tests.deploy.conftest import Ask
from tests.deploy.names import settings_of

pytestmark = pytest.mark.deploy

SECRETS: Final = {"tls": {"secretName": "tls"}, "auth": {"secretName": "auth"}}
POSTGRES: Final = {"database": {"secretName": "database"}}
EVERYTHING: Final = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "settings": {"max_waiting": "20000"},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "scheduler"}}}]},
    "serviceAccount": {"annotations": {"a": "b"}},
    "persistence": {"storageClassName": "fast"},
    "image": {"digest": f"sha256:{'0' * 64}"},
}
COMMON: Final = ["NetworkPolicy", "Service", "Service", "ServiceAccount"]


def rendered(ask: Ask, **values: object) -> list[dict[str, Any]]:
    done = ask("chart", json.dumps({**SECRETS, **values}))
    assert done.returncode == 0, done.stderr
    objects: list[dict[str, Any]] = json.loads(done.stdout)
    return objects


def kinds(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(each["kind"] for each in objects)


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            yield each["spec"]["template"]["spec"]


def test_sqlite_is_one_server_with_a_volume(ask: Ask) -> None:
    objects = rendered(ask, replicas=5)
    [owner] = [each for each in objects if each["kind"] == "StatefulSet"]

    assert kinds(objects) == [*COMMON, "StatefulSet"]
    assert owner["spec"]["replicas"] == 1
    assert owner["spec"]["serviceName"] in {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    [pod] = pods(objects)
    claimed = {claim["metadata"]["name"] for claim in owner["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in pod["volumes"]} | claimed
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes


def test_postgresql_is_a_deployment_with_a_disruption_budget(ask: Ask) -> None:
    objects = rendered(ask, **POSTGRES)
    [pod] = pods(objects)

    assert kinds(objects) == sorted(["Deployment", "PodDisruptionBudget", *COMMON])
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
    assert "BLOCKYARD_DATABASE" in {variable["name"] for variable in pod["containers"][0]["env"]}


@pytest.mark.parametrize("database", [{}, POSTGRES], ids=["sqlite", "postgres"])
def test_with_every_value_set_it_is_valid_too_and_names_settings_of_the_server(
    ask: Ask, database: dict[str, object]
) -> None:
    objects = rendered(ask, **EVERYTHING, **database)
    [pod] = pods(objects)
    named = [variable["name"] for variable in pod["containers"][0]["env"]]

    assert "ServiceMonitor" in kinds(objects)
    assert "BLOCKYARD_MAX_WAITING" in named
    assert set(named) <= settings_of(Settings)
    assert len(named) == len(set(named))


def test_each_selector_finds_the_pods_and_each_port_has_its_name(ask: Ask) -> None:
    objects = rendered(ask, **POSTGRES, **EVERYTHING)
    by_kind = {each["kind"]: each for each in objects}
    template = by_kind["Deployment"]["spec"]["template"]
    labels, [container] = template["metadata"]["labels"].items(), template["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    services = [each for each in objects if each["kind"] == "Service"]
    selectors = [each["spec"]["selector"] for each in services]
    selectors += [by_kind[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors.append(by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])

    assert [selector for selector in selectors if not selector.items() <= labels] == []
    assert {port["targetPort"] for each in services for port in each["spec"]["ports"]} <= ports
    monitored = by_kind["ServiceMonitor"]["spec"]
    [scraped] = [s for s in services if monitored["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
    assert monitored["endpoints"][0]["port"] in {port["name"] for port in scraped["spec"]["ports"]}


def test_a_pod_has_time_to_leave_the_service_and_to_drain(ask: Ask) -> None:
    [pod] = pods(rendered(ask, **POSTGRES, drainGraceS=60))
    [container] = pod["containers"]

    assert pod["terminationGracePeriodSeconds"] == 80
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 5
    assert {"name": "BLOCKYARD_DRAIN_GRACE_S", "value": "60"} in container["env"]


@pytest.mark.parametrize("missing", SECRETS)
def test_without_its_secrets_nothing_is_rendered(ask: Ask, missing: str) -> None:
    done = ask("chart", json.dumps({name: value for name, value in SECRETS.items() if name != missing}))

    assert done.returncode == 1
    assert f"{missing}.secretName is needed" in done.stderr


def test_what_a_cluster_would_refuse_is_noticed(ask: Ask) -> None:
    done = ask("chart", json.dumps({**SECRETS, "resources": {"limit": {"memory": "1Gi"}}}))

    assert done.returncode == 1
    assert "'limit' was unexpected" in done.stderr
