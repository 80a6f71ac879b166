"""The production recipes: pinned, private, without secrets, of commands and settings that exist."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli import app
from deployments.definitions import POOL
from settings.loading import OUTSIDE
from settings.model import PREFIX, Settings
from tests.servers import ROOT

RECIPES = ROOT / "deployments"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MANIFESTS = [
    document
    for file in sorted((RECIPES / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
COMPOSE = yaml.safe_load((RECIPES / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
POOLS = {file.stem: json.loads(file.read_text()) for file in (RECIPES / "pools").glob("*.json")}
UNITS = sorted((RECIPES / "systemd").glob("*.service"))
TEXTS = [
    *(RECIPES / name for name in ("compose.yaml", "Dockerfile", "example.env", "postgres.sql", "systemd/example.env")),
    *sorted((RECIPES / "kubernetes").glob("*.yaml")),
    *sorted((RECIPES / "pools").glob("*.json")),
    *UNITS,
]
SECRET = re.compile(r"PASSWORD|AUTH|SECRET|TOKEN|API_KEY")
PINNED = re.compile(r"^[a-z/-]+:\d+\.\d+[a-z0-9.-]*$")


def found(inside: Any, key: str) -> Iterator[Any]:
    """Every value of ``key``, however deep."""
    if isinstance(inside, dict):
        for name, value in inside.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(inside, list):
        for value in inside:
            yield from found(value, key)


def unit(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names are case-sensitive
    parser.read(file)
    return parser


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]
    yield "run", POOLS["kubernetes"]["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]


def commands() -> dict[str, list[str]]:
    """Everything that is started, by where it stands."""
    started = {f"compose {name}": service["command"] for name, service in SERVICES.items() if "command" in service}
    for name, pod in pods():
        started |= {f"kubernetes {name}": one["command"] for one in pod["containers"] if "command" in one}
    for file in UNITS:
        started[file.name] = unit(file)["Service"]["ExecStart"].removeprefix("/opt/feedloop/bin/").split()
    return started


@cache
def options(program: str, *words: str) -> str:
    """What ``program words --help`` tells; MLflow's is asked in this process, which imports it anyway."""
    if program == "mlflow":
        import mlflow.cli

        return " ".join(option for given in mlflow.cli.cli.commands[words[0]].params for option in given.opts)
    command = [sys.executable, "-m", program, *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def names_of_environment() -> set[str]:
    told = "\n".join(file.read_text() for file in TEXTS)
    return set(re.findall(rf"\b(?:{PREFIX}|PREFECT_|MLFLOW_)[A-Z0-9_]+\b", told))


def test_every_image_is_pinned_and_ours_has_our_version() -> None:
    images = {service["image"] for service in SERVICES.values()} | set(found(MANIFESTS, "image"))
    images |= {pool["variables"]["properties"]["image"]["default"] for pool in POOLS.values()}
    images |= set(re.findall(r"^FROM (\S+)", (RECIPES / "Dockerfile").read_text(), re.MULTILINE))
    assert len(images) >= 4
    for image in images:
        assert PINNED.match(image), f"{image} is not pinned"
        if image.startswith("feedloop"):
            assert image.removeprefix("feedloop:").split("-")[0] == VERSION, image


def test_published_ports_are_the_loopbacks_and_units_listen_there() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    assert {manifest["spec"].get("type") for manifest in MANIFESTS if manifest["kind"] == "Service"} == {"ClusterIP"}
    assert not list(found(MANIFESTS, "hostPort"))
    assert not list(found(MANIFESTS, "hostNetwork"))
    for file in UNITS:
        command = unit(file)["Service"]["ExecStart"]
        assert "worker" in command or "--host 127.0.0.1" in command


def test_no_secret_stands_in_a_recipe() -> None:
    """Nor a default one: what is not filled in is an error, not a weak password."""
    for file in TEXTS:
        text = file.read_text()
        assert not re.search(r"://[^:/@\s$]+:[^@\s$]+@", text), f"{file} has an address with a password"
        for name, value in re.findall(r"^[ \t]*\"?([A-Z_]+)\"?[ \t]*[:=][ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
            if SECRET.search(name):
                assert value == "" or re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), f"{file}: {name} has a value"
    assert not [manifest for manifest in MANIFESTS if manifest["kind"] == "Secret"]
    assert subprocess.run(["git", "check-ignore", "-q", "deployments/.env"], cwd=ROOT, check=False).returncode == 0


def test_every_variable_is_a_real_setting() -> None:
    import mlflow.cli
    from mlflow import environment_variables
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings as PrefectSettings

    names = names_of_environment()
    ours = {name for name in names if name.startswith(PREFIX)} - OUTSIDE
    for name in ours:
        group: Any = Settings
        for part in name.removeprefix(PREFIX).lower().split("__"):
            assert part in group.model_fields, f"{name} is no setting"
            group = group.model_fields[part].annotation
    assert {"FEEDLOOP_WORKSPACE", "FEEDLOOP_REGISTRY__LEDGER_URI"} <= ours
    served = {option.envvar for option in mlflow.cli.cli.commands["server"].params}
    # Filled in by whoever starts it, for the addresses behind a proxy.
    known = {"PREFECT_AUTH", "PREFECT_PUBLIC_API", "MLFLOW_PUBLIC_HOST", "PREFECT_HOME"}
    known |= {name for name in dir(environment_variables) if name.startswith("MLFLOW_")} | served
    known |= set(_get_settings_fields(PrefectSettings))
    assert names - ours - OUTSIDE <= known, names - ours - OUTSIDE - known


@pytest.mark.parametrize("place", commands())
def test_every_command_exists_with_its_options(place: str) -> None:
    program, *words = commands()[place]
    if program == "feedloop":
        known = {command.name for command in app.registered_commands}
        if words[0] == "serve" and words[0] not in known:
            pytest.skip("this feedloop has no scoring gateway")
        assert words[0] in known
        return
    verbs = [word for word in words[:2] if not word.startswith("-")]
    told = options(program, *verbs)
    asked = [word.split("=")[0] for word in words if word.startswith("--")]
    assert [option for option in asked if option not in told] == []
    if "worker" in verbs:
        assert words[words.index("--pool") + 1] == POOL


@pytest.mark.parametrize("place", ["compose mlflow", "kubernetes mlflow"])
def test_mlflow_answers_under_the_name_by_which_it_is_called_and_under_no_other(place: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (told,) = [word.partition("=")[2] for word in commands()[place] if word.startswith("--allowed-hosts=")]
    hosts = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", told).split(",")
    (called,) = {service["FEEDLOOP_REGISTRY__TRACKING_URI"] for service in found(COMPOSE, "x-runs")}
    assert is_allowed_host_header(hosts, called.removeprefix("http://"))
    # What a browser sends through the published port.
    assert is_allowed_host_header(hosts, "127.0.0.1:5000")
    assert not is_allowed_host_header(hosts, "elsewhere.example")


def test_services_of_compose_are_restarted_checked_and_locked_down() -> None:
    for name, service in SERVICES.items():
        assert service["restart"].startswith(("unless-stopped", "on-failure")), name
        assert name == "deploy" or service["healthcheck"]["test"], name
        if name != "postgres":
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    assert set(COMPOSE["volumes"]) == {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2


def test_runs_of_every_recipe_share_workspace_and_results() -> None:
    """Nothing passes between the tasks of a run by a path that only one machine knows."""
    image = dict(re.findall(r"\b([A-Z_]+)=(/\S+)", (RECIPES / "Dockerfile").read_text()))
    unshared = {"/tmp", "/etc"}  # noqa: S108 (looked for, not used)
    for name in ("FEEDLOOP_WORKSPACE", "PREFECT_RESULTS_LOCAL_STORAGE_PATH"):
        assert image[name].startswith("/var/lib/feedloop/")
        assert not any(image[name].startswith(place) for place in unshared)
    assert "workspace:/var/lib/feedloop" in SERVICES["worker"]["volumes"]
    assert "feedloop_workspace:/var/lib/feedloop" in POOLS["docker"]["variables"]["properties"]["volumes"]["default"]
    (run,) = dict(pods())["run"]["containers"]
    assert {"name": "shared", "mountPath": "/var/lib/feedloop"} in run["volumeMounts"]
    (claim,) = [one for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim" and one["metadata"]["name"] == POOL]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pods_are_nobody_in_particular_and_what_they_mount_and_read_is_there() -> None:
    maps = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ConfigMap"}
    claims = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"}
    accounts = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "ServiceAccount"}
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (False, True), name
            assert locked["capabilities"] == {"drop": ["ALL"]}, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
        assert {one["name"] for one in found(pod, "configMap")} | {
            one["name"] for one in found(pod, "configMapRef")
        } <= maps
        assert {one["name"] for one in found(pod, "secretRef")} == {"feedloop"}
        assert {one["claimName"] for one in found(pod, "persistentVolumeClaim")} <= claims
    properties = POOLS["kubernetes"]["variables"]["properties"]
    assert {properties["service_account_name"]["default"], "feedloop-worker"} == accounts


def test_services_of_kubernetes_lead_to_their_pods() -> None:
    labels = {
        one["metadata"]["name"]: (one["spec"]["selector"]["matchLabels"], one["spec"]["template"])
        for one in MANIFESTS
        if one["kind"] == "Deployment"
    }
    for chosen, template in labels.values():
        assert template["metadata"]["labels"].items() >= chosen.items()
    for service in (one for one in MANIFESTS if one["kind"] == "Service"):
        chosen, template = labels[service["metadata"]["name"]]
        assert service["spec"]["selector"] == chosen
        (port,) = service["spec"]["ports"]
        (container,) = template["spec"]["containers"]
        assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]


def test_the_address_of_a_settings_map_is_a_service() -> None:
    (settings,) = [one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap" and one["metadata"]["name"] == POOL]
    services = {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "Service"}
    assert {re.split("[/:]", settings[name])[3] for name in ("PREFECT_API_URL", "FEEDLOOP_REGISTRY__TRACKING_URI")} == {
        "prefect",
        "mlflow",
    }
    assert {"prefect", "mlflow", "gateway"} == services


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_fills_in_what_it_declares_and_nothing_else(name: str) -> None:
    template = POOLS[name]
    filled = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert filled == set(template["variables"]["properties"])
    for variable, described in template["variables"]["properties"].items():
        assert described["description"], variable


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_a_unit_is_no_root_and_comes_back(file: Path) -> None:
    service = unit(file)["Service"]
    assert (service["User"], service["Restart"], service["EnvironmentFile"]) == (
        "feedloop",
        "always",
        "/etc/feedloop/feedloop.env",
    )
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["StateDirectory"]) == (
        "yes",
        "strict",
        "feedloop",
    )


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here: the units were not checked by systemd itself")
    for file in UNITS:
        # Nothing is installed under /opt here, and a program that is not there is an error.
        (tmp_path / file.name).write_text(re.sub(r"/opt/feedloop/bin/\w+", "/bin/true", file.read_text()))
    files = [str(tmp_path / file.name) for file in UNITS]
    done = subprocess.run([program, "verify", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_docker_accepts_the_compose_file(tmp_path: Path) -> None:
    program = _compose()
    if program is None:
        pytest.skip("no docker compose here: the file was not checked by it")
    secrets = tmp_path / "env"
    secrets.write_text("POSTGRES_PASSWORD=x\nPREFECT_AUTH=a:x\n")
    text = (RECIPES / "compose.yaml").read_text()
    # Debian's own program is of before the project could be named in the file.
    file = tmp_path / "compose.yaml"
    file.write_text(re.sub(r"^name: .*\n", "", text, flags=re.MULTILINE) if len(program) == 1 else text)
    command = [*program, "--file", str(file), "--env-file", str(secrets), "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _compose() -> list[str] | None:
    """Compose as a plugin of Docker, or as the program of its own that Debian has."""
    for command in (["docker", "compose"], ["docker-compose"]):
        program = shutil.which(command[0])
        if program and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
            return [program, *command[1:]]
    return None


def test_the_image_is_no_root_and_its_extras_exist() -> None:
    text = (RECIPES / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known) - {"dev"}
    assert "--constraint requirements.lock" in text
    shown = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert all((ROOT / name).exists() for name in shown)


def test_the_lock_fixes_the_versions_that_must_agree() -> None:
    """Prefect's package for Kubernetes is not in the lock; it is pinned where it is named."""
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"\n{name}==" in lock for name in ("prefect", "mlflow", "psycopg", "asyncpg", "PyYAML"))
    text = (RECIPES / "Dockerfile").read_text()
    assert all(re.match(r"==\d", after) for before, after in pairwise(re.split(r"(?<=prefect-kubernetes)", text)))
