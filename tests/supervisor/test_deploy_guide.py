"""docs/deploy.md and examples/deploy are true: what they run can be run, and what they name is there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from guides import DOCS, check_links
from support import needs

import qg
from qg.supervisor.metrics import EVENTS
from qg.supervisor.tally import outcome_of

commands = needs("qg.cli.commands").commands
health = needs("qg.cli.health").health
work = needs("qg.cli.work").work

DEPLOY = DOCS.parent / "examples" / "deploy"
PAGE = (DOCS / "deploy.md").read_text(encoding="utf-8")
UNIT = (DEPLOY / "qg-worker.service").read_text(encoding="utf-8")
IMAGE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
MANIFEST = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")


def understood(arguments: list[str]) -> dict[str, object]:
    """What the command makes of these arguments; fails if it refuses them."""
    command: click.Command = commands
    with click.Context(command) as ctx:
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(ctx, arguments)
            assert found is not None, name
            command = found
    return command.make_context("", arguments).params


def commands_in(text: str) -> list[list[str]]:
    """What stands in a block of its own, or between backticks, without its first word."""
    return [shlex.split(each)[1:] for each in re.findall(r"(?:^|`)(qg [a-z]+ [^`\n|]+)(?:`|$)", text, re.MULTILINE)]


def test_each_command_of_the_page_is_understood() -> None:
    whole = [each for each in commands_in(PAGE) if not {"PATH", "PORT"} & set(each)]
    assert {each[0] for each in whole} == {"work", "pause", "jobs", "resume", "schema"}
    for arguments in whole:
        understood(arguments)


def test_every_option_of_the_commands_that_the_page_names_exists() -> None:
    there = {option for command in (work, health) for each in command.params for option in each.opts}
    others = {"--all", "--queue", "--exclude-table-data", "--now", "--version"}  # of other commands
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - others <= there


def test_the_application_of_the_page_is_that_of_the_folder() -> None:
    (block,) = re.findall(r"^```python\n# tasks.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    given: dict[str, object] = {}
    exec(compile(block, "deploy.md", "exec"), given)
    spec = importlib.util.spec_from_file_location("deployed_tasks", DEPLOY / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert given["work_map"].keys() == module.work_map.keys()  # type: ignore[attr-defined]
    module.work_map["SendMail"](qg.Job("SendMail", ["ada@example.org"]))


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    command = shlex.split(line)
    assert command[0].endswith("/qg")
    given = understood(command[1:])
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(limit) > given["shutdown_timeout"] + 10  # type: ignore[operator]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    # It looks whether the program and its folder are there.
    unit = tmp_path / "qg-worker.service"
    unit.write_text(
        UNIT.replace(command[0], sys.executable).replace("User=app\n", "").replace("/srv/app", str(tmp_path))
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)], capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "qg-worker" in line or str(unit) in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_the_image_runs_what_there_is() -> None:
    commands = [json.loads(each) for each in re.findall(r"\bCMD (\[.*\])$", IMAGE, re.MULTILINE)]
    assert [each[:2] for each in commands] == [["qg", "health"], ["qg", "work"]]
    for each in commands:
        understood(each[1:])
    assert re.search(r"^ENV QG_HEALTH_FILE=", IMAGE, re.MULTILINE)
    assert (DEPLOY / "tasks.py").exists()
    assert "COPY tasks.py ." in IMAGE


def test_the_manifest_is_one_that_kubernetes_takes() -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(MANIFEST)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][0] == "qg"
    given = understood(container["command"][1:])
    assert pod["terminationGracePeriodSeconds"] > given["shutdown_timeout"] + 10
    address = given["health_port"]
    (port,) = container["ports"]
    assert (address.host, address.port) == ("0.0.0.0", port["containerPort"])  # type: ignore[attr-defined]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert given["metrics"]
    assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]
    (probe,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    command = yaml.safe_load(probe)["livenessProbe"]["exec"]["command"]
    assert understood(command[1:])["live"] is True


def test_the_page_names_each_metric_event_and_outcome() -> None:
    metrics = Path(qg.__file__).parent.joinpath("supervisor", "metrics.py").read_text(encoding="utf-8")
    for name in re.findall(r'"(qg_\w+[a-z])"', metrics):
        assert f"`{name}" in PAGE, name
    for event in EVENTS:
        assert f"`{event}`" in PAGE, event
    source = Path(outcome_of.__code__.co_filename).read_text(encoding="utf-8").partition("def outcome_of")[2]
    outcomes = re.findall(r'return "(\w+)"| "(\w+)" if|else "(\w+)"', source)
    for outcome in {name for names in outcomes for name in names if name}:
        assert f"`{outcome}`" in PAGE, outcome


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("deploy.md")
