"""deploy/k8s/base: what a cluster would be told, held to what the services are and need."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner

from ragline.cli.main import app
from ragline.identity import KeyFile
from ragline.local.service_processes import RPC_NAMES
from ragline.rpc import LIVENESS, RpcServer
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from tests.contract.service_catalogue import SERVICES

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/k8s/base"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCUMENTS: list[dict[str, Any]] = [
    document
    for path in sorted(BASE.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
CONFIG = dict(
    line.split("=", 1) for line in (BASE / "ragline.env").read_text().splitlines() if line and not line.startswith("#")
)
"""The ConfigMap that every service reads."""


def _of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in DOCUMENTS if d["kind"] == kind}


DEPLOYMENTS = _of_kind("Deployment")
each_service = pytest.mark.parametrize("service", SERVICES)


def _pod(service: str) -> dict[str, Any]:
    pod: dict[str, Any] = DEPLOYMENTS[service]["spec"]["template"]["spec"]
    return pod


def _container(service: str) -> dict[str, Any]:
    (container,) = _pod(service)["containers"]
    return dict(container)


def _port(service: str) -> int:
    (port,) = _container(service)["ports"]
    return int(port["containerPort"])


def _variables(model: type[BaseModel], prefix: str = "RAGLINE_") -> Iterator[tuple[str, Any]]:
    """Every environment variable that the settings read, with its type."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", field.annotation


def test_the_kustomization_names_every_file_of_its_folder() -> None:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    named = {*KUSTOMIZATION["resources"], *generator["envs"], "kustomization.yaml"}
    assert named == {path.name for path in BASE.iterdir()}
    assert KUSTOMIZATION["namespace"] in _of_kind("Namespace")


def test_every_service_has_a_deployment_and_a_service_of_its_name() -> None:
    assert sorted(DEPLOYMENTS) == sorted(_of_kind("Service")) == list(SERVICES)


@each_service
def test_its_service_leads_grpc_clients_to_every_replica(service: str) -> None:
    spec = _of_kind("Service")[service]["spec"]
    labels = DEPLOYMENTS[service]["spec"]["template"]["metadata"]["labels"]
    assert spec["clusterIP"] == "None"
    assert spec["selector"] == labels == DEPLOYMENTS[service]["spec"]["selector"]["matchLabels"]
    assert spec["ports"] == [{"name": "grpc", "port": _port(service), "targetPort": "grpc"}]


@each_service
def test_its_image_is_pinned_to_this_version_and_knows_what_to_run(service: str) -> None:
    container = _container(service)
    assert container["name"] == service
    assert container["image"] == f"ragline-{service}:{VERSION}"
    assert not {"command", "args"} & container.keys()


@each_service
def test_it_runs_without_privileges(service: str) -> None:
    pod, container = _pod(service), _container(service)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_service
def test_it_may_write_where_it_must(service: str) -> None:
    volumes = {volume["name"]: volume for volume in _pod(service)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in _container(service)["volumeMounts"]}
    assert mounts.keys() and len(mounts) == len(volumes)
    assert "emptyDir" in mounts["/tmp"]
    loads_a_model = "load_embedder" in (ROOT / "services" / service / "app.py").read_text()
    assert ("emptyDir" in mounts.get(f"{CONFIG['RAGLINE_DATA_DIR']}/models", {})) == loads_a_model


@each_service
def test_its_resources_are_bounded(service: str) -> None:
    resources = _container(service)["resources"]
    assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}


@each_service
def test_a_lost_dependency_makes_it_unready_and_does_not_restart_it(service: str) -> None:
    container, port = _container(service), _port(service)
    assert container["readinessProbe"]["grpc"] == {"port": port}
    assert container["livenessProbe"]["grpc"] == {"port": port, "service": LIVENESS}
    assert container["startupProbe"]["grpc"] == {"port": port, "service": LIVENESS}


async def test_a_server_that_is_not_ready_is_alive(tmp_path: Path) -> None:
    telemetry = Telemetry("test")
    server = RpcServer(
        "127.0.0.1:0", telemetry=telemetry, keys=KeyFile(tmp_path / "keys.json"), register=lambda _: None, scopes={}
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            alive = await check(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=5)
            ready = await check(health_pb2.HealthCheckRequest(), timeout=5)
    finally:
        await server.stop()
        telemetry.shutdown()
    assert alive.status == health_pb2.HealthCheckResponse.SERVING
    assert ready.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_the_config_map_holds_settings_that_exist_and_no_secrets() -> None:
    known = dict(_variables(Settings))
    assert CONFIG.keys() <= known.keys()
    assert [name for name in CONFIG if SecretStr in get_args(known[name])] == []


def test_the_config_map_is_accepted_and_leads_to_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CONFIG.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(_env_file=None)
    addresses = settings.rpc.model_dump(include=set(RPC_NAMES.values()))
    assert addresses == {RPC_NAMES[service]: f"{service}:{_port(service)}" for service in SERVICES}
    assert settings.engine_url.startswith("http://")
    assert settings.bus.idempotent_producer


@each_service
def test_it_listens_where_the_others_look_for_it(service: str) -> None:
    environment = {variable["name"]: variable.get("value") for variable in _container(service)["env"]}
    listens = f"RAGLINE_RPC__{RPC_NAMES[service].upper()}"
    assert environment[listens] == f"0.0.0.0:{_port(service)}"
    assert environment.keys() <= dict(_variables(Settings)).keys()


@each_service
def test_it_gets_the_secrets_that_it_needs_by_reference_and_no_others(service: str) -> None:
    secrets = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in _container(service)["env"] if "valueFrom" in v}
    source = (ROOT / "services" / service / "app.py").read_text()
    needed = {
        "RAGLINE_DATABASE__URL": "Database.of(settings",
        "RAGLINE_ENGINE__API_KEY": "settings.engine_api_key",
        "RAGLINE_AUTH__SERVICE_TOKEN": "settings.service_token",
    }
    assert secrets.keys() == {name for name, use in needed.items() if use in source}


@each_service
def test_the_key_file_is_mounted_where_the_settings_say(service: str) -> None:
    (mount,) = (m for m in _container(service)["volumeMounts"] if m["name"] == "keys")
    assert f"{mount['mountPath']}/keys.json" == CONFIG["RAGLINE_AUTH__KEYS_FILE"]
    # A file mounted by `subPath` would never change: a revoked key would live on.
    assert mount["readOnly"] is True and "subPath" not in mount


def test_the_kafka_topics_are_current() -> None:
    printed = CliRunner().invoke(app, ["contracts", "topics"])
    assert printed.exit_code == 0
    assert (BASE / "kafka-topics.yaml").read_text() == printed.stdout, "run `make contracts`"


def test_compacted_topics_keep_their_last_records_and_dead_letters_end() -> None:
    configurations = {name: topic["spec"]["config"] for name, topic in _of_kind("KafkaTopic").items()}
    assert configurations["ragline.index.state.v1"]["cleanup.policy"] == "compact"
    for name, configuration in configurations.items():
        assert name.endswith(".dlq") == ("retention.ms" in configuration)
    assert _of_kind("KafkaTopic")["ragline.index.state.v1"]["spec"]["partitions"] == 1
