"""What MODULE:NAME may mean, and what is said of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Database

import qg
from qg import aio
from qg.supervisor.application import ErrApplication, find_application
from qg.supervisor.emptiness import nothing_is_due
from qg.supervisor.settings import Settings
from qg.supervisor.targets import make_targets

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("QG_DSN", database.dsn)
    monkeypatch.delitem(sys.modules, "supervised", raising=False)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("supervised", "'supervised' names no application; give MODULE:NAME, tasks:work_map for instance"),
        (":work_map", "':work_map' names no application"),
        ("supervized:work_map", "there is no module 'supervized' in "),
        ("supervized:work_map", "; did you mean 'supervised'?"),
        ("nowhere.at.all:x", "there is no module 'nowhere' in "),
        ("supervised:work_map.nothing", "there is no 'nothing' in supervised.work_map; "),
        ("supervised:zzz", "there is no 'zzz' in supervised; give the name of a work map (a dict"),
    ],
)
def test_what_isn_t_there_is_said_with_the_nearest_name(app: str, said: str) -> None:
    with pytest.raises(ErrApplication) as error:
        find_application(app)
    assert said in str(error.value)


def test_a_module_that_is_missing_deeper_down_is_the_application_s_own_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_nothing.py").write_text("import nothing_at_all")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        find_application("imports_nothing:x")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("supervised:number", "supervised:number is of type int; give a work map"),
        ("supervised:wrong", "supervised:wrong returned of type int"),
        ("supervised:later", "to be awaited, which nobody does here"),
        ("supervised:nothing", "supervised:nothing gives an empty list"),
        ("supervised:empty", "supervised:empty is an empty work map"),
        ("supervised:note", "supervised:note is a function that can't be called without arguments (missing a required"),
        ("supervised:signal", "supervised:signal is a module; give a name in it"),
        ("supervised:Greet", "supervised:Greet is of type type"),
    ],
)
def test_what_is_of_a_wrong_kind_is_said_with_what_would_do(app: str, said: str) -> None:
    with pytest.raises(ErrApplication) as error:
        make_targets(find_application(app), Settings(app))
    assert said in str(error.value)


def test_a_client_is_none(dsn: str) -> None:
    with qg.Client(dsn) as client, pytest.raises(ErrApplication) as error:
        make_targets(client, Settings("app:client"))
    assert "app:client is a qg.Client, which has no threads to run" in str(error.value)


def test_a_pool_of_coroutines_is_none(dsn: str) -> None:
    pool = aio.WorkerPool(aio.Client(dsn), {}, 1)
    with pytest.raises(ErrApplication) as error:
        make_targets(pool, Settings("app:pool"))
    assert "app:pool is a qg.aio.WorkerPool, which runs in an event loop of yours" in str(error.value)


def test_nothing_is_due_if_the_plainest_look_finds_nothing(dsn: str, database: Database) -> None:
    with qg.Client(dsn) as client:
        pool = qg.WorkerPool(client, {"Note": print}, 1)
        assert nothing_is_due(pool)
        client.enqueue(qg.Job("Note"))
        assert not nothing_is_due(pool)
        assert database.locks() == []
        assert nothing_is_due(qg.WorkerPool(client, {"Other": print}, 1, only_known_types=True))


def test_options_reach_the_pools(dsn: str) -> None:
    settings = Settings("app", dsn, queues=("a", "b"), threads=3, connections=2, interval=0.5)
    targets = make_targets({"Note": print}, settings)
    pools = [target.pool for target in targets]
    assert [(pool.queue, pool.look().workers, pool.interval) for pool in pools if pool] == [
        ("a", 3, 0.5),
        ("b", 3, 0.5),
    ]
    for target in targets:
        target.close()


def test_settings_stay_what_they_are_on_their_way_to_a_child() -> None:
    settings = Settings("app:x", "dsn", queues=("a",), threads=2, interval=0.5, max_jobs=3, log_format="json")
    assert Settings.from_json(settings.to_json()) == settings


def test_qg_work_needs_no_extra_but_click() -> None:
    code = (
        "import sys, qg.cli.work, qg.supervisor.parent, qg.supervisor.child; "
        "print([each for each in ('rich', 'prometheus_client', 'opentelemetry', 'msgspec') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
