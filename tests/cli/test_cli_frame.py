"""What all commands have in common: help, exit statuses, errors in a line, and where the database is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import psycopg2
import pytest
from granting import role_with, shut_out_public
from outside import Place
from psycopg2.extensions import make_dsn
from support import VERSION, Database, free_port, needs

import qg as library
from qg.cli.status import BY_CTRL_C, Status

commands = needs("qg.cli.commands").commands
_LAZY = needs("qg.cli.commands")._LAZY


def every_command(group: Any = commands, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*names, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*names, name))


@pytest.mark.parametrize("names", list(every_command()), ids=" ".join)
def test_the_help_of_each_command_has_examples_and_exit_statuses(run: Any, names: tuple[str, ...]) -> None:
    text = run(*names, "--help").output
    assert f"\n  qg {names[0]}" in text
    assert "\nExit status:\n  0 " in text
    assert "\n  2      it couldn't run\n" in text
    assert "\n  128+n  ended by signal n; Ctrl-C is 130\n" in text


def test_the_list_of_commands_is_told_without_importing_them() -> None:
    code = "import sys\nfrom qg.cli import main\nsys.argv = ['qg', '--help']\n" + (
        "try: main()\nfinally: print([each for each in sys.modules if each in "
        "('rich', 'qg.cli.jobs', 'qg.cli.looking', 'qg.cli.demo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    for name, (_, text) in _LAZY.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout
        command = commands.get_command(click.Context(commands), name)
        assert command.help.startswith(text.rstrip(".")), name


def test_a_command_that_there_isnt_is_told_with_those_that_there_are(run: Any) -> None:
    assert "there is no command 'job'; did you mean 'jobs'?\n" in run("job", status=2).stderr
    assert "there is no command 'xyz'; there are enqueue, " in run("xyz", status=2).stderr
    assert "No such option" in run("--nope", status=2).stderr


def test_the_shell_is_told_how_to_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_QG_COMPLETE", "bash_source")
    with pytest.raises(SystemExit):
        commands(prog_name="qg")
    assert "complete -o nosort -F _qg_completion qg" in capsys.readouterr().out


def test_wrong_options_are_exit_status_2(run: Any) -> None:
    run("stats", "--nope", status=2)
    run("jobs", "show", "x", status=2)
    assert "not both" in run("stats", "--json", "--quiet", status=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["stats"],
        ["jobs", "list"],
        ["jobs", "retry", "7"],
        ["enqueue", "SendMail"],
        ["pause", "mail"],
        ["doctor"],
        ["schema", "status"],
    ],
    ids=" ".join,
)
def test_a_database_that_cant_be_reached_is_one_line_and_exit_status_2(run: Any, arguments: list[str]) -> None:
    dsn = f"postgresql://ada:hunter2@127.0.0.1:{free_port()}/app"
    result = run(*arguments, dsn=dsn, status=Status.COULD_NOT_RUN)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Connection refused" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr


def test_where_no_database_is_said_it_says_how_to(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    result = run("stats", status=2)
    assert result.stderr.endswith(" Say which database by --dsn, QG_DSN or DATABASE_URL\n")
    assert result.stderr.count("\n") == 1


def test_a_dsn_that_is_none_isnt_repeated(run: Any) -> None:
    result = run("stats", "--dsn", "ada:hunter2@host", status=2)
    assert "the source string is neither a libpq DSN nor a postgresql:// URL" in result.stderr
    assert "hunter2" not in result.output


@pytest.mark.parametrize("dsn", ["host=\udcff", "postgresql://ada:hunter2%FF@127.0.0.1/app"])
def test_a_dsn_that_isnt_utf_8_is_one_line(run: Any, dsn: str) -> None:
    result = run("stats", "--dsn", dsn, status=2)
    assert result.stderr == "Error: the source string isn't UTF-8; write it in UTF-8, %XX in a URL too\n"


def test_the_database_is_said_in_four_ways(run: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"host=127.0.0.1 port={free_port()}"
    run("queues", dsn=nowhere, status=2)
    # The first of them counts.
    run("queues", "--dsn", place.dsn, dsn=nowhere, status=1)
    monkeypatch.setenv("DATABASE_URL", nowhere)
    run("queues", dsn=place.dsn, status=1)
    monkeypatch.setenv("DATABASE_URL", place.dsn)
    run("queues", status=1)
    monkeypatch.delenv("DATABASE_URL")
    for name, value in psycopg2.extensions.parse_dsn(place.dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), value)
    run("queues", status=1)


def test_a_missing_table_is_exit_status_2_with_the_command_that_creates_it(
    run: Any, make_database: Callable[..., str]
) -> None:
    dsn = make_database(migrate=False)
    for arguments in (["stats"], ["jobs", "delete", "7"], ["enqueue", "SendMail"]):
        result = run(*arguments, dsn=dsn, status=2)
        assert "there is no que_jobs table" in result.stderr
        assert "qg schema install" in result.stderr
        assert "qg.migrate" not in result.stderr
    assert "qg schema install" in run("doctor", dsn=dsn, status=1).stdout
    library.migrate(dsn, 2)
    assert "version 2" in run("stats", dsn=dsn, status=2).stderr
    assert "qg schema migrate --version 3" in run("schema", "status", dsn=dsn, status=1).stdout


def test_missing_rights_are_exit_status_2_with_the_grant(run: Any, make_database: Callable[..., str]) -> None:
    dsn = make_database(version=VERSION)
    owner = Database(dsn)
    try:
        shut_out_public(owner)
        with role_with(owner, ["GRANT USAGE ON SCHEMA public TO app"]) as theirs:
            for arguments in (["stats"], ["jobs", "list"], ["jobs", "retry", "7"], ["errors"]):
                assert "GRANT SELECT" in run(*arguments, dsn=theirs, status=2).stderr, arguments
            refused = run(
                "schema", "migrate", "--version", 3 if VERSION > 3 else 4, "--yes", dsn=theirs, status=2
            ).stderr
            assert refused.endswith("; docs/reliability.md lists, below Rights, what to GRANT for what\n")
            for options in ([], ["--from", "-"]):
                refused = run("enqueue", "SendMail", *options, dsn=theirs, typed="{}", status=2).stderr
                assert "GRANT SELECT, INSERT ON public.que_jobs TO " in refused
                assert "GRANT USAGE ON SEQUENCE public.que_jobs_" in refused
    finally:
        owner.close()


def test_queues_and_ids_that_there_arent_are_exit_status_1(qg: Any, place: Place) -> None:
    place.add(queue="mail")
    for arguments in (
        ["jobs", "list", "-q", "mial"],
        ["jobs", "delete", "-q", "mial", "--yes"],
        ["pause", "mial"],
        ["resume", "mial"],
    ):
        result = qg(*arguments, status=Status.NO)
        assert "nobody knows a queue 'mial'" in result.stderr
        assert "the nearest is 'mail'" in result.stderr
    result = qg("jobs", "show", 4711, status=Status.NO)
    assert "there is no job 4711" in result.stderr
    assert "qg jobs list lists" in result.stderr


def test_ctrl_c_is_exit_status_130(qg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qg.control.Control.workers", interrupt)
    assert qg("workers", status=BY_CTRL_C).output == ""


def test_a_bug_isnt_taken_for_an_error_of_the_users(qg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.control.Control.workers", lambda control: 1 / 0)
    with pytest.raises(AssertionError):
        qg("workers")


def test_a_password_in_a_dsn_isnt_shown_when_the_server_refuses_it(run: Any, place: Place) -> None:
    dsn = make_dsn(place.dsn, user="nobody_at_all", password="hunter2")
    result = run("stats", dsn=dsn, status=2)
    assert "hunter2" not in result.output
