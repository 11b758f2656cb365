"""The compose files, read by docker-compose itself: embedded, and with PostgreSQL, Redis and Chroma beside it."""

import json
import pathlib
import shutil
import subprocess

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "infrastructure" / "deploy" / "compose"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Reads compose files in a copy, whose secrets are its own."""
    assert shutil.which("docker-compose"), "docker-compose is missing: run `make setup`"
    copy = tmp_path_factory.mktemp("checkout") / "infrastructure" / "deploy" / "compose"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([copy / "make-secrets.sh"], check=True, capture_output=True)

    def read(*files):
        arguments = [part for file in files for part in ("-f", str(copy / file))]
        done = subprocess.run(["docker-compose", *arguments, "config"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # What it prints is YAML of plain maps, lists and texts.
        return parse(done.stdout), done.stdout, copy

    return read


def parse(text):
    """docker-compose's YAML by docker-compose's own Python, which has the parser that it wrote it with."""
    code = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    done = subprocess.run(["/usr/bin/python3", "-c", code], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_embedded_is_one_service_that_needs_nothing(config):
    read, _, _ = config("compose.yaml")
    assert list(read["services"]) == ["auralink"]
    auralink = read["services"]["auralink"]
    assert "secrets" not in read and "depends_on" not in auralink
    assert auralink["read_only"] and auralink["cap_drop"] == ["ALL"]
    assert all(str(port).startswith("127.0.0.1:") for port in auralink["ports"]), "on this machine alone, unless asked"
    assert any(str(volume).startswith("auralink:/var/lib/auralink") for volume in auralink["volumes"])


def test_with_engines_they_are_closed_off_and_waited_for(config):
    read, text, folder = config("compose.yaml", "compose.engines.yaml")
    services = read["services"]
    assert set(services) == {"auralink", "postgres", "redis", "chroma"}
    assert set(services["auralink"]["depends_on"]) == {"postgres", "redis", "chroma"}
    assert read["networks"]["engines"]["internal"] is True
    for name in ("postgres", "redis", "chroma"):
        assert "ports" not in services[name] and list(services[name]["networks"]) == ["engines"], name
    mounted = [str(volume) for volume in services["auralink"]["volumes"]]
    assert any("auralink.engines.yaml:/etc/auralink/auralink.yaml" in volume for volume in mounted), mounted
    assert not any("/auralink.yaml:/etc" in volume for volume in mounted), "the other configuration took its place"


def test_secrets_are_files_made_at_random_once_and_stand_nowhere_else(config):
    _, text, folder = config("compose.yaml", "compose.engines.yaml")
    secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert set(secrets) == {"postgres_password", "postgres_url", "redis_password", "redis_url"}
    password = secrets["postgres_password"].strip()
    assert len(password) == 48 and password in secrets["postgres_url"] and password not in text
    subprocess.run([folder / "make-secrets.sh"], check=True, capture_output=True)
    assert (folder / "secrets" / "postgres_password").read_text() == secrets["postgres_password"], "those that are there are kept"
    assert "secrets/" in (FOLDER / ".gitignore").read_text()


def test_what_the_dockerfile_copies_is_there():
    root = FOLDER.parents[2]
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (root / source).exists(), line
    assert any(line.startswith("USER ") and "0:0" not in line for line in lines) and any(line.startswith("HEALTHCHECK") for line in lines)
    run = [line for line in lines if line.startswith("FROM ")][-1]
    assert run == "FROM debian:bookworm-slim"
