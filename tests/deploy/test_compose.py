"""docker-compose.yml against everything it names: services, ports, files, variables, the policies' own needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.policy.load import load
from stack.process import ROOT
from upstream_app.settings import Settings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
POLICY = (ROOT / "config" / "simplepro.yaml").read_text()
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::[-~?][^}]*)?\}")
BY_IMAGE = {"ENVIRONMENT", "HOST", "PORT", "PROXY_HOST", "PROXY_PORT", "ADMIN_PORT", "POLICY", "GLOBAL_LIMIT"}
POD = [1, 2, 3]


def addresses(text: str) -> set[str]:
    return set(re.findall(r"\b((?:app|redis|mongo|proxy)-\d):\d+", text))


def test_what_a_service_waits_for_is_there_and_can_say_that_it_is_ready() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES, (name, other)
            if condition["condition"] == "service_healthy":
                built = "build" in SERVICES[other]
                assert built or "healthcheck" in SERVICES[other], f"{name} waits for {other}, which has no health check"
            if condition["condition"] == "service_completed_successfully":
                assert SERVICES[other].get("restart") == "no", other


def test_images_that_are_built_exist_in_the_dockerfile_and_check_their_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = {part.split()[0]: part for part in re.split(r"^FROM .* AS ", text, flags=re.M)[1:]}
    for name, service in SERVICES.items():
        if target := service.get("build", {}).get("target"):
            assert "HEALTHCHECK" in stages[target], (name, target)


@pytest.mark.parametrize("number", POD)
def test_a_sidecar_shares_the_network_of_its_application(number: int) -> None:
    sidecar = SERVICES[f"proxy-{number}"]
    assert sidecar["network_mode"] == f"service:app-{number}"
    assert not {"networks", "ports"} & set(sidecar), "a namespace that is shared has its owner's networks"
    assert sidecar["environment"]["UPSTREAM"] == "127.0.0.1:4000"


def test_every_address_names_a_service_on_a_network_that_the_asker_has() -> None:
    for name, service in SERVICES.items():
        networks = set(service.get("networks", []))
        if mode := service.get("network_mode"):
            networks = set(SERVICES[mode.removeprefix("service:")]["networks"])
        for other in addresses(yaml.safe_dump([service.get("environment"), service.get("command")])):
            assert set(SERVICES[other]["networks"]) & networks, f"{name} can't reach {other}"


@pytest.mark.parametrize("path", ["config/nginx/nginx.conf", "config/prometheus/prometheus.yml"])
def test_files_that_services_read_name_pods_that_are_there(path: str) -> None:
    assert addresses((ROOT / path).read_text()) == {f"app-{number}" for number in POD}


def test_nothing_is_open_beyond_loopback_but_what_is_meant_and_no_port_twice() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    defaults = [re.sub(r"\$\{[A-Z_]+:-(\d+)\}", r"\1", port).rsplit(":", 1)[0] for port in published]
    assert len(set(defaults)) == len(defaults)


def test_mounted_files_are_in_the_tree() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), (name, source)
            else:
                assert source in COMPOSE["volumes"], (name, source)


def test_every_service_is_hardened_and_bounded() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "restart" in service, name
        if not name.endswith("-init"):
            limits = service["deploy"]["resources"]
            assert {"cpus", "memory"} <= set(limits["limits"]), name
            assert "reservations" in limits, name


def test_pods_have_what_the_report_gives_them() -> None:
    for number in POD:
        resources = SERVICES[f"app-{number}"]["deploy"]["resources"]
        assert resources["limits"] == {"cpus": "1.0", "memory": "1G"}
        assert resources["reservations"] == {"cpus": "0.5", "memory": "512M"}
    assert sum(name.startswith("redis-") and name[-1].isdigit() for name in SERVICES) == 6
    assert sum(name.startswith("mongo-") and name[-1].isdigit() for name in SERVICES) == 3
    assert SERVICES["toxiproxy"]["profiles"] == ["chaos"]


def test_variables_are_ones_that_the_programs_read() -> None:
    of_policy = set(VARIABLE.findall(POLICY))
    of_app = set(Settings.model_fields)
    for name, known in (("proxy-1", of_policy | BY_IMAGE), ("app-1", of_app | {"ENVIRONMENT"})):
        given = {key.removesuffix("_FILE") for key in SERVICES[name]["environment"]}
        assert given <= known, (name, given - known)


def test_secrets_are_files_and_each_that_is_used_is_declared() -> None:
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search("SECRET|TOKEN|PASSWORD", key):
                assert key.endswith("_FILE"), (name, key)
                assert str(value).removeprefix("/run/secrets/") in service["secrets"], (name, key)
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name


def test_the_policy_is_accepted_under_the_variables_of_a_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production nothing has a laptop's default: what is missing would be a finding."""
    for key, value in SERVICES["proxy-1"]["environment"].items():
        text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(value))
        if key.endswith("_FILE"):
            text = str(tmp_path / key)
            Path(text).write_text("a-secret-of-a-test-that-is-long-enough")
        monkeypatch.setenv(key, text)
    policy = load(ROOT / "config" / "simplepro.yaml")
    assert policy.admin.token is not None
    assert policy.redis is not None
    assert len(policy.redis.nodes) == 6


def test_a_container_is_given_longer_to_end_than_its_process_takes() -> None:
    drain = load(ROOT / "config" / "simplepro.yaml").listener.drain
    for name in ("app-1", "proxy-1"):
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain
