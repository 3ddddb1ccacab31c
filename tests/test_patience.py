"""How soon a connection that qg opens notices that the network has gone silent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection, make_dsn
from support import Network

import qg

PATIENCE = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGCONNECT_TIMEOUT", "PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.delenv(name, raising=False)


def opened(source: object) -> tuple[dict[str, str], dict[str, int]]:
    """What libpq and the socket of a connection from *source* have of PATIENCE."""
    with qg.Client(source) as client:
        client.enqueue(qg.Job("MyJob"))
        with client.lock_job() as job:
            job.delete()
            return said(job.conn), on_socket(job.conn)


def said(conn: connection) -> dict[str, str]:
    return {name: value for name, value in conn.info.dsn_parameters.items() if name in PATIENCE}


def on_socket(conn: connection) -> dict[str, int]:
    options = {
        "keepalives": (socket.SOL_SOCKET, "SO_KEEPALIVE"),
        "keepalives_idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
        "keepalives_interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
        "keepalives_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
        "tcp_user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
    }
    with socket.socket(fileno=os.dup(conn.fileno())) as end:
        return {
            name: end.getsockopt(level, getattr(socket, option))
            for name, (level, option) in options.items()
            if hasattr(socket, option)
        }


def as_url(dsn: str) -> str:
    parts = psycopg2.extensions.parse_dsn(dsn)
    return f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}?sslmode=disable"


@pytest.mark.parametrize("form", [str, as_url], ids=["dsn", "url"])
def test_a_connection_that_qg_opens_has_timeouts_and_keepalives(network: Network, form: type[str]) -> None:
    parameters, on_the_socket = opened(form(network.dsn))
    assert parameters == PATIENCE
    assert on_the_socket == {name: int(PATIENCE[name]) for name in on_the_socket}


def test_what_the_dsn_says_counts(network: Network) -> None:
    own = {"connect_timeout": "3", "keepalives_idle": "99", "tcp_user_timeout": "0"}
    parameters, on_the_socket = opened(make_dsn(network.dsn, **own))
    assert parameters == {**PATIENCE, **own}
    assert on_the_socket["keepalives_idle"] == 99


def test_keepalives_that_the_dsn_turns_off_stay_off(network: Network) -> None:
    assert opened(make_dsn(network.dsn, keepalives=0))[1]["keepalives"] == 0


def test_what_the_environment_says_counts(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert opened(network.dsn)[0] == {**PATIENCE, "connect_timeout": "4"}


@pytest.mark.parametrize("where", ["the environment", "the DSN"])
def test_to_a_service_nothing_is_added(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """What its file says would count for less than what is added."""
    (tmp_path / "services").write_text("[mine]\nkeepalives_idle=55\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    dsn = network.dsn
    if where == "the DSN":
        dsn = make_dsn(dsn, service="mine")
    else:
        monkeypatch.setenv("PGSERVICE", "mine")
    assert opened(dsn)[1]["keepalives_idle"] == 55


def test_a_callables_connection_is_left_as_it_is(network: Network) -> None:
    parameters, on_the_socket = opened(lambda: psycopg2.connect(network.dsn))
    assert "tcp_user_timeout" not in parameters or parameters["tcp_user_timeout"] != "30000"
    assert on_the_socket["keepalives_idle"] != 30
