"""The files of the server stack say what is so: services, settings, secrets, paths, ports, metrics, commands.

Nothing is started here; `tests/e2e/test_compose.py` runs the commands. Not shown by either: what Docker makes of them.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from entrypoints.settings import PREFIX, Settings, load_settings, unknown_names
from entrypoints.telemetry import Metrics, WorkerMetrics
from eventcore.draining import Drained
from eventcore.events import Outcome, Problem
from eventcore.registry import CONSUMERS, DEDUP_CACHES, MIGRATIONS, QUEUES, STORES, find_adapter

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
MANUAL = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("eventcore:"))
KEEPING = ["nats", "redis", "timescaledb"]  # what nobody outside has to reach
# Whatever another service waits to see finished runs once; the others go on.
JOBS = {
    name
    for service in SERVICES.values()
    for name, wait in service.get("depends_on", {}).items()
    if wait["condition"] == "service_completed_successfully"
}
LASTING = sorted(SERVICES.keys() - JOBS)


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def final_stage() -> str:
    return DOCKERFILE.rpartition("\nFROM ")[2]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Source and target of each volume."""
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        yield source, target


def ports_in(words: Iterable[str]) -> set[int]:
    return {int(number) for word in words for number in re.findall(r"127\.0\.0\.1(?::|', )(\d+)", word)}


def listening_port(name: str) -> int:
    """The port that a service's health check asks."""
    (port,) = ports_in(SERVICES[name]["healthcheck"]["test"])
    return port


# --- services -------------------------------------------------------------------------------------------------------


def test_the_stack_has_the_services_it_is_said_to_have() -> None:
    assert {*SERVICES} == {"timescaledb", "redis", "nats", "migrate", "api", "worker", "prometheus", "grafana"}
    assert OURS == ["api", "migrate", "worker"]
    assert {"migrate"} == JOBS


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_service_says_whether_it_is_well_and_comes_back(name: str) -> None:
    service = SERVICES[name]

    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_job_runs_once_and_has_no_health(name: str) -> None:
    assert SERVICES[name]["healthcheck"] == {"disable": True}
    assert SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_memory_and_logs_are_limited(name: str) -> None:
    service = SERVICES[name]

    assert re.fullmatch(r"[1-9]\d*[mg]", service["deploy"]["resources"]["limits"]["memory"])
    assert {"max-size", "max-file"} == service["logging"]["options"].keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_gains_privileges(name: str) -> None:
    service = SERVICES[name]

    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", OURS)
def test_ours_can_write_nothing_but_their_memory(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert "volumes" not in service


def test_who_waits_for_health_waits_for_a_service_that_has_some() -> None:
    waits = [
        (name, other, wait["condition"])
        for name, service in SERVICES.items()
        for other, wait in service.get("depends_on", {}).items()
    ]

    assert {other for _, other, condition in waits if condition == "service_healthy"} <= {*LASTING}
    assert ("migrate", "timescaledb", "service_healthy") in waits
    for name in ("api", "worker"):
        assert (name, "migrate", "service_completed_successfully") in waits
        assert (name, "nats", "service_healthy") in waits


def test_one_service_builds_the_image_and_those_that_share_it_start_later() -> None:
    builders = [name for name in OURS if "build" in SERVICES[name]]

    assert builders == ["migrate"]
    assert {SERVICES[name]["image"] for name in OURS} == {SERVICES["migrate"]["image"]}
    assert all("migrate" in SERVICES[name]["depends_on"] for name in OURS if name != "migrate")


def test_a_process_that_is_asked_to_end_has_the_time_it_needs() -> None:
    grace = Settings.model_fields["grace_seconds"].default

    assert seconds(SERVICES["api"]["stop_grace_period"]) > grace
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > 2 * grace  # its port, then its transactions


# --- ports and places -----------------------------------------------------------------------------------------------


def test_only_this_machine_reaches_what_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published.keys().isdisjoint(KEEPING)
    for name, ports in published.items():
        port = listening_port(name)
        assert ports == [f"127.0.0.1:{port}:{port}"]
    assert not any("network_mode" in service for service in SERVICES.values())


def test_the_image_and_its_health_checks_speak_of_the_ports_of_the_settings() -> None:
    api, worker = (Settings.model_fields[name].default for name in ("port", "worker_port"))

    assert (listening_port("api"), listening_port("worker")) == (api, worker)
    assert re.findall(r"^EXPOSE (.+)$", final_stage(), re.MULTILINE) == [f"{api} {worker}"]
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n *CMD (.+)$", final_stage(), re.MULTILINE)
    assert ports_in(json.loads(check)) == {api}


def test_named_volumes_are_declared_and_used() -> None:
    named = {source for service in SERVICES.values() for source, _ in mounts(service) if not source.startswith(".")}

    assert named == COMPOSE["volumes"].keys()


def test_files_that_are_mounted_exist_and_cannot_be_written_to() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] == "."]

    assert mounted
    for volume in mounted:
        source, _, mode = volume.split(":")
        assert (ROOT / source).exists(), source
        assert mode == "ro"


# --- settings and secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_setting_named_is_one_and_has_a_value_that_can_be_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = SERVICES[name]["environment"]
    for setting, value in environment.items():
        assert isinstance(value, str), f"{setting}: compose would pass on YAML's own spelling"
        monkeypatch.setenv(setting, re.sub(r"\$\{[^}]+\}", "secret", value))

    assert unknown_names(environment) == []
    settings = load_settings()
    for group in (STORES, MIGRATIONS):
        assert find_adapter(group, settings.store_url)
    for group in (QUEUES, CONSUMERS):
        assert find_adapter(group, settings.queue_url)
    assert find_adapter(DEDUP_CACHES, settings.dedup_url)


def test_settings_lead_to_services_and_the_ports_they_listen_on() -> None:
    configuration = (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8")
    places = dict(re.findall(r"@(\w+):(\d+)/", " ".join(SERVICES["api"]["environment"].values())))

    assert places == {"timescaledb": "5432", "redis": "6379", "nats": "4222"}
    assert "\nport: 4222\n" in configuration


def test_secrets_are_named_in_the_example_and_have_no_value_there() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if not line.startswith("#")]
    used = re.findall(r"(?<!\$)\$\{?(\w+)(:\?[^}]+)?", COMPOSE_TEXT)

    assert all(re.fullmatch(r"[A-Z_]+=", line) for line in named)
    assert {line.removesuffix("=") for line in named} == {name for name, _ in used}
    assert all(refusal for _, refusal in used), "a secret that is missing must stop compose, not be empty"


def test_no_secret_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if variable.endswith("PASSWORD"):
                assert value.strip('"').startswith("${")
            for password in re.findall(r"//[^/@:]*:([^@]+)@", str(value)):
                assert password.startswith("${")
    assert re.findall(r"password: (.+)", (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8")) == [
        "$NATS_PASSWORD"
    ]


def test_nats_syncs_to_disk_before_it_answers_and_serves_nobody_without_a_password() -> None:
    configuration = (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8")
    (store,) = re.findall(r"store_dir: (\S+)", configuration)

    assert re.search(r"^ *sync_interval: always$", configuration, re.MULTILINE)
    assert re.search(r"^authorization \{", configuration, re.MULTILINE)
    assert ("nats-data", store) in mounts(SERVICES["nats"])


# --- the image ------------------------------------------------------------------------------------------------------


def test_redis_is_bounded_and_forgets_the_oldest_first() -> None:
    """All marks expire; by use, the newest would be as likely to go."""
    command = " ".join(SERVICES["redis"]["command"])
    assert re.search(r"--maxmemory \d+mb ", command)
    assert "--maxmemory-policy volatile-ttl " in command
    assert "`maxmemory-policy volatile-ttl`" in MANUAL


def test_the_image_has_a_user_a_health_check_and_no_second_python() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    (user,) = re.findall(r"^USER (.+)$", final_stage(), re.MULTILINE)

    assert len(bases) == 2
    assert len({*bases}) == 1  # the environment that is copied links to its Python
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert "\nHEALTHCHECK " in final_stage()
    assert json.loads(re.findall(r"^ENTRYPOINT (.+)$", final_stage(), re.MULTILINE)[0]) == ["eventcore"]


def test_what_the_image_copies_exists_and_reaches_docker() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]

    assert {"src", "pyproject.toml", "requirements/runtime.txt"} <= {*copied}
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
        assert not any(is_ignored(path) for path in below(source)), source


@pytest.mark.parametrize("path", [".env", ".git/config", ".venv/bin/python", "eventcore-data/x", "tests/x", "a.md"])
def test_nothing_else_reaches_docker(path: str) -> None:
    assert is_ignored(path)


def below(source: str) -> Iterator[str]:
    for path in (ROOT / source).rglob("*"):
        if "__pycache__" not in path.parts:
            yield str(path.relative_to(ROOT))


def is_ignored(path: str) -> bool:
    """What .dockerignore says of a file: the last pattern that names it or a folder above it decides."""
    ignored = False
    parts = PurePosixPath(path).parts
    prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if line and not line.startswith("#") and any(re.fullmatch(pattern, prefix) for prefix in prefixes):
            ignored = not line.startswith("!")
    return ignored


# --- metrics --------------------------------------------------------------------------------------------------------


def exported() -> dict[str, set[str]]:
    """Every sample that the API and a worker export, with the names of its labels."""
    api, worker = Metrics(), WorkerMetrics()
    problem = Problem(index=0, event_id=None, code="missing_field", field=None, message="")
    api.count_batch(Outcome(accepted=0, duplicates=0, conflicts=0, rejected=1, errors=(problem,)), 0.1)
    api.count_request("GET", "/health", 200, 0.1)
    worker.count(Drained(), 0.1)
    worker.count_failure("unavailable")
    samples: dict[str, set[str]] = {"up": set()}  # by Prometheus itself, about each process
    for page in (api.exposition(), worker.exposition()):
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", page.decode(), re.MULTILINE):
            samples.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return samples


def asked_for(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels in an expression of PromQL."""
    grouping = r"\b(?:by|without|on|ignoring|group_left|group_right) \(([^)]*)\)"
    labels = {name for names in re.findall(grouping, expression) for name in re.findall(r"\w+", names)}
    labels |= {*re.findall(r"(\w+)=~?\"", expression)}
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", re.sub(grouping, "", expression))
    words = {*re.findall(r"(?<![\w.])[a-z_]\w*(?!\w| *\()", bare)}
    return words - {"and", "or", "unless", "bool", "offset"}, labels


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_for_what_is_exported(path: Path) -> None:
    samples = exported()
    targets = [target for panel in json.loads(path.read_bytes())["panels"] for target in panel["targets"]]

    assert targets
    for target in targets:
        metrics, labels = asked_for(target["expr"])
        assert metrics, target["expr"]
        assert metrics <= samples.keys(), target["expr"]
        known = {label for metric in metrics for label in samples[metric]} | {"job", "instance"}
        assert labels | {*re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])} <= known, target["expr"]


def test_an_expression_is_read_whole() -> None:
    expression = 'histogram_quantile(0.5, sum by (le, a) (rate(x_bucket{b="c"}[5m]))) * on (d) group_left () up'

    assert asked_for(expression) == ({"x_bucket", "up"}, {"le", "a", "b", "d"})


def test_prometheus_asks_services_on_the_ports_they_listen_on() -> None:
    asked = {
        name: config["port"]
        for job in PROMETHEUS["scrape_configs"]
        for config in job["dns_sd_configs"]
        for name in config["names"]
    }

    assert asked == {name: listening_port(name) for name in ("api", "worker")}


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/eventcore.yml").read_text())["providers"]

    assert source["url"] == f"http://prometheus:{listening_port('prometheus')}"
    assert ("./deploy/grafana/dashboards", provider["options"]["path"]) in mounts(SERVICES["grafana"])
    for kind in ("datasources", "dashboards"):
        place = f"/etc/grafana/provisioning/{kind}"
        assert (f"./deploy/grafana/provisioning/{kind}", place) in mounts(SERVICES["grafana"])
    for path in DASHBOARDS:
        for panel in json.loads(path.read_bytes())["panels"]:
            assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


# --- documents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_a_target_of_make_that_is_named_exists(document: Path) -> None:
    targets = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)}
    code = re.findall(r"```.*?```|`[^`\n]+`", document.read_text(encoding="utf-8"), re.DOTALL)

    named = {target for text in code for target in re.findall(r"(?:^|[`;&] ?)make ([a-z][a-z-]*)", text, re.MULTILINE)}
    assert named <= targets


def test_the_manual_names_every_service_image_volume_port_and_secret() -> None:
    images = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    ports = {str(listening_port(name)) for name, service in SERVICES.items() if "ports" in service}
    secrets = {*re.findall(r"\$\{(\w+)", COMPOSE_TEXT)}

    for name in {*SERVICES, *COMPOSE["volumes"], *images, *secrets}:
        assert f"`{name}`" in MANUAL, name
    assert ports <= {*re.findall(r"127\.0\.0\.1:(\d+)", MANUAL)}


def test_the_manual_speaks_of_settings_and_files_that_exist() -> None:
    names = {*re.findall(rf"\b{PREFIX}[A-Z_]+", MANUAL)}
    files = re.findall(r"`((?:deploy|tests|requirements|docs)/[\w./-]+)`", MANUAL)

    assert unknown_names(names) == []
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
