"""The configuration: precedence, and a sentence for everything that is wrong."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path

import msgspec
import pytest

from streamd import places
from streamd.config import Address, Config, ConfigError, load, members, parse_address

SHIPPED = Path(__file__).parents[1] / "config" / "streamd.toml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "streamd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_has_every_key_with_its_default():
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert shipped == msgspec.json.decode(msgspec.json.encode(Config()))


def test_the_shipped_file_loads():
    assert load(SHIPPED, {}, {}) == load(None, {}, {})


@pytest.mark.parametrize("name", ["rtmp", "http", "admin", "state", "patches"])
def test_a_flag_goes_before_the_environment_and_that_before_the_file(tmp_path, name):
    def value(n: int) -> str:
        return f"127.0.0.1:{n}" if name in ("rtmp", "http") else f"/srv/{n}"

    path = written(tmp_path, f'[server]\n{name} = "{value(1)}"\n')
    env = {f"STREAMD_{name.upper()}": value(2)}
    assert getattr(load(path, {}, {}).server, name) == value(1)
    assert getattr(load(path, env, {name: None}).server, name) == value(2)
    assert getattr(load(path, env, {name: value(3)}).server, name) == value(3)
    assert getattr(load(None, env, {}).server, name) == value(2)


def test_whole_numbers_are_good_for_seconds_and_left_out_keys_keep_their_default(tmp_path):
    config = load(written(tmp_path, "[server]\ndrain_seconds = 3\n[live]\ntakeover = true\n"), {}, {})
    assert config.server.drain_seconds == 3.0
    assert config.live.takeover is True
    assert config.live.publisher_grace == 30.0


def test_who_may_do_what_is_uids_and_gids():
    assert members((), "here") == (frozenset(), frozenset())
    assert members(("user:root", "uid:7", "group:root", "gid:8", "uid:7"), "here") == (
        frozenset({0, 7}),
        frozenset({0, 8}),
    )


def test_what_live_code_is_told_is_a_plain_dict():
    settings = Config().live.settings()
    assert settings["viewer_max_lag"] == 5.0
    assert {type(value) for value in settings.values()} == {float, int, bool}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[server]\nrtpm = ''", "[server] rtpm is no key of [server]; did you mean rtmp?"),
        ("[sever]\n", "[sever] is no section; did you mean server?"),
        ("[xyzzy]\n", "[xyzzy] is no section; there are server, log, patches, admin, rehearsal, probation,"),
        ("log = 'json'", "log is a section; write [log] on a line of its own, then its keys."),
        (
            "[server]\ndrain_seconds = 'ten'",
            '[server] drain_seconds is "ten"; write a number of seconds from 0 to 86_400, say drain_seconds = 10.0.',
        ),
        ("[server]\ndrain_seconds = true", "[server] drain_seconds is true; write a number of seconds"),
        ("[server]\ndrain_seconds = -1", "[server] drain_seconds is -1; write a number of seconds"),
        ("[server]\ndrain_seconds = nan", "[server] drain_seconds is nan; write a number of seconds"),
        ("[server]\ndrain_seconds = inf", "[server] drain_seconds is inf; write a number of seconds"),
        (
            "[network]\nbacklog = 1.5",
            "[network] backlog is 1.5; write a whole number of connections from 1 to 65_535, say backlog = 1024.",
        ),
        (
            "[releases]\nmax_live = 1",
            "[releases] max_live is 1; write a whole number of releases from 2 to 64",
        ),
        (
            "[log]\nformat = 'xml'",
            '[log] format is "xml"; write "plain" or "json", say format = "plain".',
        ),
        (
            "[live]\npage = 'no'",
            '[live] page is "no"; write true or false without quotes, say page = true.',
        ),
        ("[server]\nhttp = 8080", '[server] http is 8080; write text in quotes, say http = "0.0.0.0:8080".'),
        ("[server]\nrtmp = 'x'", '[server] rtmp: "x" is no ADDRESS:PORT; write for example "0.0.0.0:1935"'),
        ("[server]\nhttp = '0.0.0.0:1935'", "[server] http is 0.0.0.0:1935, which rtmp has already"),
        ("[network]\nflush_few_ms = 200", "flush_few_ms is 200 and flush_many_ms 100"),
        ("[live]\nviewer_max_slow = 1.0", "viewer_max_lag is 5.0 and viewer_max_slow 1.0"),
        (f"[server]\nadmin = '/{'x' * 120}'", "is longer than the 107 bytes a unix socket's path may have"),
        ("[server\n", "is not TOML: "),
        (
            "[patches]\nkeys = 'x'",
            '[patches] keys is "x"; write a list of texts in quotes, say keys = ["ssh-ed25519 AAAA',
        ),
        (
            "[admin]\nload = ['group:x', 7]",
            '[admin] load is ["group:x", 7]; write a list of texts in quotes, say load = ["group:streamd-operators"]',
        ),
        ("[admin]\nload = ['op']", '[admin] load has "op"; write "user:NAME", "group:NAME", "uid:NUMBER"'),
        ("[admin]\nlook = ['uid:-1']", '[admin] look has "uid:-1"; write "user:NAME"'),
        ("[admin]\nlook = ['gid:4294967295']", '[admin] look has "gid:4294967295"; write "user:NAME"'),
        (
            "[admin]\nlook = ['user:nobody-has-it']",
            '[admin] look has "user:nobody-has-it", and this machine knows no such user; make it first, or write',
        ),
        ("[admin]\nlook = ['group:']", '[admin] look has "group:", and this machine knows no such group'),
        ('[admin]\nlook = ["user:a\\u0000b"]', "and this machine knows no such user; make it first"),
        (
            "[admin]\nlook = ['uid:7']",
            "[admin] look says who may only look, and load is empty, so that everyone",
        ),
        ("[patches]\nrequire_signature = true", "[patches] keys is empty and require_signature true, so no"),
        (
            "[probation]\nseconds = -1",
            "[probation] seconds is -1; write a number of seconds from 0 to 86_400",
        ),
        ("[probation]\nevents = 1.5", "[probation] events is 1.5; write a whole number of events from 0 to"),
        (
            "[probation]\nrise = 0.5",
            "[probation] rise is 0.5; write a number of times the rate before from 1 to",
        ),
        (
            "[probation]\nstep_ms = 2000",
            "[probation] step_ms is 2000.0 and [supervision] step_seconds 1.0; a",
        ),
        (
            "[rehearsal]\nmemory = 1",
            "[rehearsal] memory is 1; write a whole number of bytes from 268_435_456",
        ),
        (
            "[rehearsal]\nreplay_seconds = 61",
            "[rehearsal] replay_seconds is 61.0 and seconds 60.0; replaying",
        ),
        (
            "[supervision]\nstep_seconds = 0",
            "[supervision] step_seconds is 0; write a number of seconds from 0.05",
        ),
        (
            "[supervision]\njournal_bytes = 100_000_000",
            "[supervision] journal_bytes is 100000000 and journal_total 33554432; one broadcast may not have more",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_file_the_key_and_what_to_write(tmp_path, text, sentence):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as e:
        load(path, {}, {})
    assert sentence in str(e.value)
    of_two_keys = any(word in text for word in ("flush", "slow", "step_ms", "replay", "journal"))
    assert str(path) in str(e.value) or of_two_keys


def test_a_missing_file_and_a_wrong_encoding_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: no such file or directory\."):
        load(tmp_path / "none.toml", {}, {})
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 2; save it as UTF-8"):
        load(path, {}, {})


@pytest.mark.parametrize(
    ("env", "flags", "where"),
    [
        ({"STREAMD_RTMP": "nowhere"}, {}, 'STREAMD_RTMP: "nowhere" is no ADDRESS:PORT'),
        ({"STREAMD_RTMP": ":1"}, {"rtmp": "nowhere"}, '--rtmp: "nowhere" is no ADDRESS:PORT'),
    ],
)
def test_a_wrong_address_is_blamed_on_where_it_was_written(env, flags, where):
    with pytest.raises(ConfigError) as e:
        load(None, env, flags)
    assert str(e.value).startswith(where)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1935", Address("127.0.0.1", 1935)),
        ("localhost:0", Address("localhost", 0)),
        (":8080", Address("0.0.0.0", 8080)),
        ("[::1]:1935", Address("::1", 1935)),
        ("[::]:0", Address("::", 0)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "1935", "host", "host:", "host:x", "host:-1", "host:65536", "::1:1935", "[::1]", "[]:1", "[host]:1"]
    + ["a b:1", "http://host:1", "host:\u0661"],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


def test_two_random_ports_are_not_the_same():
    config = load(None, {"STREAMD_RTMP": "127.0.0.1:0", "STREAMD_HTTP": "127.0.0.1:0"}, {})
    assert config.server.rtmp == config.server.http


# ---- places ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """/run/streamd and /tmp, moved under a directory of the test's own."""
    monkeypatch.setattr(places, "SERVICE_RUNTIME", str(tmp_path / "run" / "streamd"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_service_uses_the_directory_that_systemd_made(elsewhere):
    env = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}
    config = load(None, env, {})
    assert (config.server.admin, config.server.state) == ("/run/a/admin.sock", "/var/lib/a")


def test_without_systemd_the_first_usable_directory_is_taken(elsewhere):
    env = {"HOME": "/home/op"}
    assert load(None, env, {}).server.admin == f"{elsewhere}/streamd-{os.getuid()}/admin.sock"
    env["XDG_RUNTIME_DIR"] = "/run/user/7"
    assert load(None, env, {}).server.admin == "/run/user/7/streamd/admin.sock"
    (elsewhere / "run" / "streamd").mkdir(parents=True)
    assert load(None, env, {}).server.admin == f"{elsewhere}/run/streamd/admin.sock"


def test_state_goes_to_the_users_own_directory(elsewhere):
    assert load(None, {"HOME": "/home/op"}, {}).server.state == "/home/op/.local/state/streamd"
    assert load(None, {"XDG_STATE_HOME": "/s"}, {}).server.state == "/s/streamd"


def test_a_client_finds_the_first_socket_that_exists(elsewhere):
    session = elsewhere / "session"
    env = {"XDG_RUNTIME_DIR": str(session)}
    assert places.find_admin_path(env) is None
    found = []
    for directory in (
        elsewhere / f"streamd-{os.getuid()}",
        session / "streamd",
        elsewhere / "run" / "streamd",
    ):
        directory.mkdir(parents=True)
        (directory / "admin.sock").touch()
        found.append(places.find_admin_path(env) == str(directory / "admin.sock"))
    assert found == [True, True, True]


def test_a_client_ignores_a_socket_that_somebody_else_put_into_tmp(elsewhere, monkeypatch):
    directory = elsewhere / f"streamd-{os.getuid()}"
    directory.mkdir()
    (directory / "admin.sock").touch()
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    directory.rename(elsewhere / f"streamd-{mine + 1}")
    assert places.find_admin_path({}) is None


def test_relative_paths_start_at_the_working_directory_and_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/op")
    config = load(written(tmp_path, "[server]\nstate = '~/state'\n"), {}, {})
    assert config.server.patches == str(tmp_path / "patches")
    assert config.server.state == "/home/op/state"
