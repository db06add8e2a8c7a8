"""The overlay as kustomize builds it: accepted by Kubernetes' schemas, and true to what the programs do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.policy.load import load
from stack.deploy import SECRETS, generated
from stack.process import ROOT
from stack.servers import BIN
from upstream_app.settings import Settings

KUBERNETES = ROOT / "config" / "kubernetes"
OPERATOR = "monitoring.coreos.com/v1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, with secrets of this test's own."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine, and Debian's is too old for this kustomization")
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(KUBERNETES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets"))
    overlay = folder / "overlays" / "production"
    (overlay / "secrets").mkdir()
    for name in (*SECRETS, "mongodb_uri"):
        (overlay / "secrets" / name).write_text("only-for-a-test")
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(built: list[dict[str, Any]], kind: str, name: str = "simplepro") -> dict[str, Any]:
    return next(item for item in built if item["kind"] == kind and item["metadata"]["name"] == name)


def containers(built: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, container, its pod's spec) of everything that runs."""
    for item in built:
        spec = item.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec")
        if spec:
            for container in (*spec.get("initContainers", []), *spec["containers"]):
                yield f"{item['kind']}/{item['metadata']['name']}/{container['name']}", container, spec


def validated(path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "kubernetes-validate"), "--strict", str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_accepts_each_object_strictly(built: list[dict[str, Any]], tmp_path: Path) -> None:
    own = [item for item in built if item["apiVersion"] != OPERATOR]
    assert len(own) == len(built) - 2
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(own))
    validated(path)


@pytest.mark.parametrize("path", sorted((KUBERNETES / "examples").glob("*.yaml")), ids=lambda path: str(path.name))
def test_examples_are_accepted(path: Path) -> None:
    validated(path)


def test_a_wrong_field_would_be_refused(tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"nam": "b"}]}}
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    with pytest.raises(AssertionError):
        validated(path)


def test_the_sidecar_starts_first_ends_last_and_is_probed(built: list[dict[str, Any]]) -> None:
    spec = one(built, "Deployment")["spec"]["template"]["spec"]
    sidecar, application = spec["initContainers"][0], spec["containers"][0]
    assert sidecar["restartPolicy"] == "Always"
    for container in (sidecar, application):
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), container["name"]
    grace = spec["terminationGracePeriodSeconds"]
    slept = int(re.findall(r"sleep\((\d+)\)", sidecar["lifecycle"]["preStop"]["exec"]["command"][-1])[0])
    drain = load(ROOT / "config" / "simplepro.yaml").listener.drain
    assert grace > slept + drain, "killed while it drains"
    assert grace > slept + Settings.model_fields["SHUTDOWN_TIMEOUT"].default / 1000


def test_the_job_s_sidecar_ends_with_it() -> None:
    texts = [yaml.safe_load_all(path.read_text()) for path in (KUBERNETES / "examples").glob("*.yaml")]
    jobs = [item for text in texts for item in text if item["kind"] == "Job"]
    assert jobs
    for job in jobs:
        assert job["spec"]["template"]["spec"]["initContainers"][0]["restartPolicy"] == "Always"


def test_everything_that_runs_is_locked_down(built: list[dict[str, Any]]) -> None:
    seen = 0
    for where, container, spec in containers(built):
        seen += 1
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"], where
        assert not context["allowPrivilegeEscalation"], where
        assert context["capabilities"] == {"drop": ["ALL"]}, where
        assert spec["securityContext"]["runAsNonRoot"], where
        assert spec["automountServiceAccountToken"] is False, where
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
        assert "memory" in container["resources"]["limits"], where
        assert ":latest" not in container["image"], where
        assert ":" in container["image"], where
    assert seen == 5


def test_variables_and_mounted_secrets_are_ones_that_exist(built: list[dict[str, Any]]) -> None:
    policy = (ROOT / "config" / "simplepro.yaml").read_text()
    of_policy = set(re.findall(r"\$\{([A-Z_]+)", policy)) | {"ENVIRONMENT"}
    of_app = set(Settings.model_fields) | {"ENVIRONMENT"}
    maps = {item["metadata"]["name"].split("-5")[0]: item for item in built if item["kind"] == "ConfigMap"}
    secret = one(built, "Secret")["data"]
    for where, container, spec in containers(built):
        known = of_policy if container["name"] == "proxy" else of_app
        given = {item["name"]: item.get("value", "") for item in container.get("env", [])}
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            found = [item for item in maps.values() if item["metadata"]["name"] == name]
            assert found, (where, name)
            given.update(found[0]["data"])
        assert {name.removesuffix("_FILE") for name in given} <= known, where
        for name, value in given.items():
            if name.endswith("_FILE"):
                assert Path(value).name in secret, (where, name)
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= {volume["name"] for volume in spec.get("volumes", [])}, where


def test_the_policy_is_watched_where_the_configmap_s_links_change(built: list[dict[str, Any]]) -> None:
    """A subPath mount would never change."""
    sidecar = one(built, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    mount = next(item for item in sidecar["volumeMounts"] if item["name"] == "policy")
    assert "subPath" not in mount
    assert {"name": "POLICY_WATCH", "value": "true"} in sidecar["env"]
    assert sidecar["args"][-1].startswith(mount["mountPath"])
    data = one(built, "ConfigMap", "simplepro-policy")["data"]
    assert data[Path(sidecar["args"][-1]).name] == (ROOT / "config" / "simplepro.yaml").read_text()


def test_only_the_sidecar_s_ports_are_reached(built: list[dict[str, Any]]) -> None:
    ingress = one(built, "NetworkPolicy")["spec"]["ingress"]
    open_ports = {port["port"] for rule in ingress for port in rule["ports"]}
    ports = {
        port["name"]: port["containerPort"]
        for _, container, _ in containers(built)
        for port in container.get("ports", [])
    }
    assert open_ports == {"http", "admin"}
    assert ports["app"] not in {ports["http"], ports["admin"]}
    for item in built:
        if item["kind"] == "Service":
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= {"http", "admin"}


def test_selectors_meet_pods(built: list[dict[str, Any]]) -> None:
    labels = one(built, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    for item in built:
        if item["kind"] in ("Service", "PodDisruptionBudget"):
            selector = item["spec"]["selector"]
            assert selector.get("matchLabels", selector).items() <= labels, item["metadata"]["name"]
    monitored = one(built, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert any(monitored <= item["metadata"]["labels"].items() for item in built if item["kind"] == "Service")


def test_copies_are_those_that_make_manifests_would_write() -> None:
    for path, text in generated().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: make manifests"


def test_make_secrets_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from stack import deploy

    overlay = tmp_path / "config" / "kubernetes" / "overlays" / "production"
    overlay.mkdir(parents=True)
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    monkeypatch.setattr(deploy, "KUBERNETES", tmp_path / "config" / "kubernetes")
    first = CliRunner().invoke(deploy.main, ["secrets"])
    assert first.exit_code == 0, first.output
    kept = (tmp_path / ".secrets" / "jwt_secret").read_text()
    assert len(kept) >= 64
    assert (overlay / "secrets" / "jwt_secret").read_text() == kept
    second = CliRunner().invoke(deploy.main, ["secrets"])
    assert "made" not in second.output
    assert (tmp_path / ".secrets" / "jwt_secret").read_text() == kept
    assert (tmp_path / ".secrets").stat().st_mode & 0o077 == 0
