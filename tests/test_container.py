"""The image, the composition and the locked packages, as far as files show them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bot.cli.command_line import build_parser
from bot.remote_capture.address import DEFAULT_PORT, parse_address
from bot.settings import Settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OVERLAYS = sorted((ROOT / "deploy" / "compose").glob("*.yaml"))


# --- the Dockerfile -----------------------------------------------------------------------------


def stages() -> dict[str, list[tuple[str, str]]]:
    """By stage its instructions, continued lines joined, comments gone."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
            found[stage] = []
        found[stage].append((word, rest.strip()))
    return found


IMAGES = ("bot", "full")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_special_and_is_watched(image: str) -> None:
    steps = stages()[image]
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["danzar"]
    after = [word for word, _ in steps[[w for w, _ in steps].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after), "everything in it belongs to root"
    (entry,) = [rest for word, rest in steps if word == "ENTRYPOINT"]
    assert json.loads(entry) == ["tini", "--", "danzar"]
    (health,) = [rest for word, rest in steps if word == "HEALTHCHECK"]
    command = json.loads(health.partition(" CMD ")[2])
    assert command[0] == "danzar"
    assert build_parser(command[1:]).parse_args(command[1:]).command == "health"
    assert ("STOPSIGNAL", "SIGTERM") in steps


def test_the_images_differ_in_their_packages_alone() -> None:
    found = stages()

    def rest(image: str) -> list[tuple[str, str]]:
        return [
            (word, text)
            for word, text in found[image]
            if not text.startswith(("apt-get", "base AS", "--from="))
        ]

    assert rest("bot") == rest("full")
    assert list(found)[-1] == "full", "what is built when nothing is said"


def test_the_image_has_what_discord_s_certificate_is_verified_with() -> None:
    (install,) = [rest for word, rest in stages()["base"] if "apt-get install" in rest]
    assert "ca-certificates" in install.split()


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[ignored.index("*") - 1] == "copies." and "!requirements" in ignored
    copied: set[str] = set()
    for steps in stages().values():
        for word, rest in steps:
            if word == "COPY" and not rest.startswith("--from"):
                copied |= set(rest.split()[:-1])
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in ignored, source
    packages = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in packages} <= copied
    assert not any("token" in source or "secret" in source for source in copied)


def test_every_package_in_the_image_is_checked_against_its_hash() -> None:
    installs = [
        rest
        for steps in stages().values()
        for word, rest in steps
        if word == "RUN" and "pip install" in rest
    ]
    assert len(installs) == 4
    for install in installs:
        words = shlex.split(install)
        fetches = "--requirement" in words
        assert ("--require-hashes" in words and "--only-binary=:all:" in words) == fetches
        assert ("--no-index" in words and "--no-deps" in words) == (not fetches)


# --- the locked packages ------------------------------------------------------------------------


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """By package its pins (several where systems differ) and their hashes."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line or line.startswith("#"):
            continue
        pin, *hashes = line.split("--hash=")
        requirement = Requirement(pin)
        entry = (requirement, [each.strip() for each in hashes])
        found.setdefault(canonicalize_name(requirement.name), []).append(entry)
    return found


def wanted(extra: str) -> list[Requirement]:
    project = PROJECT["project"]
    texts = project["dependencies"] if not extra else project["optional-dependencies"][extra]
    found = [Requirement(text) for text in texts]
    nested = [r for r in found if r.name == "danzar"]
    more = [each for r in nested for name in sorted(r.extras) for each in wanted(name)]
    return [r for r in found if r.name != "danzar"] + more


@pytest.mark.parametrize(("name", "extras"), [("bot.txt", [""]), ("vision.txt", ["", "vision"])])
def test_the_lock_fits_the_project(name: str, extras: list[str]) -> None:
    lock = locked(name)
    for requirement in (r for extra in extras for r in wanted(extra)):
        pins = lock[canonicalize_name(requirement.name)]
        for pin, _ in pins:
            (exact,) = pin.specifier
            assert exact.version in requirement.specifier, f"{requirement}: run `make lock`"


@pytest.mark.parametrize("name", ["bot.txt", "vision.txt", "build.txt"])
def test_every_locked_package_has_its_hashes_and_no_address(name: str) -> None:
    for pins in locked(name).values():
        for pin, hashes in pins:
            assert pin.url is None
            assert [s.operator for s in pin.specifier] == ["=="]
            assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes)
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_the_bots_lock_is_part_of_the_whole_one_and_has_no_torch() -> None:
    small, whole = locked("bot.txt"), locked("vision.txt")
    assert small.items() <= whole.items()
    assert not {"torch", "ultralytics", "opencv-python", "av", "openvino"} & set(small)
    assert "torch" in whole


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"name": "a", "version": "1", "vulns": []}, 0, "0 of 1 packages"),
        (
            {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]},
            1,
            "a 1: CVE-1 (mended in 2)",
        ),
        ({"name": "a", "skip_reason": "not found"}, 0, "NOT CHECKED"),
        (None, 0, "NOT CHECKED, the data can't be reached here (no route to host)"),
    ],
    ids=["well", "known flaw", "nothing known", "no network"],
)
def test_the_audit_judges_only_what_it_could_look_up(
    tmp_path: Path, answer: dict[str, Any] | None, status: int, words: str
) -> None:
    says = "" if answer is None else json.dumps({"dependencies": [answer]})
    (tmp_path / "pip_audit.py").write_text(
        f"import sys\nprint({says!r})\nprint('no route to host', file=sys.stderr)\n"
        "sys.exit('--require-hashes' not in sys.argv)\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", "requirements/vision.txt"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, words in done.stdout) == (status, True), done.stdout + done.stderr


# --- the composition ----------------------------------------------------------------------------


class Merging(yaml.SafeLoader):
    """Reads compose's own tag for what an overlay takes away."""


Merging.add_constructor("!reset", lambda _loader, _node: None)


def composition(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Merging)


COMPOSE = composition(ROOT / "compose.yaml")
SERVICES = COMPOSE["services"]


def test_danzar_gets_no_more_than_it_needs() -> None:
    danzar = SERVICES["danzar"]
    assert danzar["read_only"] is True
    assert danzar["cap_drop"] == ["ALL"] and "cap_add" not in danzar
    assert danzar["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in danzar and "ports" not in danzar and "pid" not in danzar
    writable = [v.split(":")[1] for v in danzar["volumes"] if not v.endswith(":ro")]
    declared = {
        place
        for image in IMAGES
        for word, rest in stages()[image]
        if word == "VOLUME"
        for place in json.loads(rest)
    }
    assert set(writable) == declared
    targets = {"full", "bot"}
    assert danzar["build"]["target"] == "${DANZAR_TARGET:-full}" and targets <= set(stages())


def test_the_composition_gives_the_cards_and_keeps_the_token_out() -> None:
    def cards(name: str) -> dict[str, object]:
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        return device

    assert cards("danzar")["count"] == "all"
    assert cards("ollama")["device_ids"] == ["0"]
    assert SERVICES["danzar"]["environment"] == {"DISCORD_TOKEN_FILE": "/run/secrets/discord_token"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for pattern in ("discord_token*", "capture_secret*"):
        assert pattern in ignored


def test_only_danzar_starts_unasked_and_nothing_is_open_to_others() -> None:
    assert [name for name, s in SERVICES.items() if not s.get("profiles")] == ["danzar"]
    for path in (ROOT / "compose.yaml", *OVERLAYS):
        for service in composition(path)["services"].values():
            for port in service.get("ports", ()):
                assert port.startswith("127.0.0.1:"), f"{path.name}: {port}"


def test_files_that_are_mounted_are_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_an_addition_changes_danzar_alone_and_shows_its_command(path: Path) -> None:
    assert list(composition(path)["services"]) == ["danzar"]
    head = path.read_text(encoding="utf-8")
    assert f"docker compose -f compose.yaml -f deploy/compose/{path.name} up" in head


def test_ports_agree() -> None:
    capture = composition(ROOT / "deploy" / "compose" / "capture.yaml")["services"]["danzar"]
    assert capture["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]
    assert parse_address(Settings().capture.listen) == ("127.0.0.1", DEFAULT_PORT)
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/compose.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    (group,) = job["static_configs"]
    assert group["targets"] == [f"danzar:{Settings().observability.port}"]
