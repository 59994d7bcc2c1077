"""config/streamd.toml, STREAMD_* and flags -> a frozen, validated Config.

The rule this file keeps: a value that would not work is refused before anything is started, with a sentence
that says where it was written, what is wrong with it and what to write instead. A key is declared once, in the
classes below: type, default, range and unit; the checks and the sentences come from there.

Order of precedence: flag, environment, file, default.
"""

from __future__ import annotations

import difflib
import grp
import json
import math
import os
import pwd
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from streamd import signing
from streamd.places import admin_paths, default_admin_path, default_state_directory

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "admin_paths",
    "default_admin_path",
    "default_state_directory",
    "load",
    "parse_address",
]

# Named after the flag; the environment variable is STREAMD_ and the name in capitals.
OVERRIDES = ("rtmp", "http", "admin", "state", "patches")

# sun_path of unix(7) has 108 bytes, with the final zero.
MAX_SOCKET_PATH = 107

# 2^32 - 1 is no user and no group but "leave it as it is" (chown(2)).
NOBODY = 2**32 - 1

# What an entry of a list looks like, for the sentence that refuses one.
EXAMPLES = {
    "keys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5... you@there",
    "load": "group:streamd-operators",
    "look": "user:monitor",
}


class ConfigError(ValueError):
    """The configuration cannot be used. The message is one sentence or two for the operator."""


def between(low: float, high: float, unit: str) -> Any:
    """The range of a number and its unit, for the check and for the sentence that refuses."""
    return msgspec.Meta(ge=low, le=high, description=unit)


Seconds = Annotated[float, between(0, 86_400, "seconds")]
SomeSeconds = Annotated[float, between(0.1, 86_400, "seconds")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One [table] of the file."""


class Server(Section, frozen=True):
    rtmp: str = "0.0.0.0:1935"
    http: str = "0.0.0.0:8080"
    admin: str = ""
    admin_group: str = ""
    state: str = ""
    patches: str = "patches"
    drain_seconds: Seconds = 10.0
    max_connections: Annotated[int, between(1, 1_000_000, "connections")] = 10_000
    uvloop: bool = True


class Log(Section, frozen=True):
    format: Literal["plain", "json"] = "plain"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Patches(Section, frozen=True):
    watch: Literal["off", "check", "load"] = "off"
    max_bytes: Annotated[int, between(1024, 64 << 20, "bytes")] = 1 << 20
    require_signature: bool = False
    keys: tuple[str, ...] = ()


class Admin(Section, frozen=True):
    """Who of those that may ask may do what: "user:NAME", "group:NAME", "uid:N" or "gid:N"; empty: all of them."""

    load: tuple[str, ...] = ()
    look: tuple[str, ...] = ()


class Rehearsal(Section, frozen=True):
    """What the child process that tries a patch may use."""

    # an interpreter with the releases and the states of a thousand broadcasts has some 200 MB of addresses
    memory: Annotated[int, between(256 << 20, 1 << 40, "bytes")] = 1 << 30
    cpu_seconds: Annotated[float, between(1, 86_400, "seconds")] = 60.0
    seconds: Annotated[float, between(1, 86_400, "seconds")] = 60.0
    replay_seconds: Annotated[float, between(0, 3600, "seconds")] = 10.0


class Probation(Section, frozen=True):
    """How a release has to prove itself after the move, before the one it came from is let go."""

    seconds: Seconds = 30.0
    events: Annotated[int, between(0, 1_000_000, "events")] = 20
    step_ms: Annotated[float, between(1, 60_000, "milliseconds")] = 200.0
    rise: Annotated[float, between(1, 1000, "times the rate before")] = 3.0
    keyframe_seconds: SomeSeconds = 10.0


class Releases(Section, frozen=True):
    # two at least: the one that runs and the one a rollback goes back to
    max_live: Annotated[int, between(2, 64, "releases")] = 4


class Network(Section, frozen=True):
    send_buffer: Annotated[int, between(4096, 64 << 20, "bytes")] = 262_144
    max_pending: Annotated[int, between(65_536, 1 << 30, "bytes")] = 8 << 20
    linger_seconds: Seconds = 5.0
    backlog: Annotated[int, between(1, 65_535, "connections")] = 1024
    flush_few_ms: Annotated[int, between(0, 1000, "milliseconds")] = 0
    flush_many_ms: Annotated[int, between(0, 1000, "milliseconds")] = 100
    slice_ms: Annotated[float, between(0.1, 100, "milliseconds")] = 1.0


class Supervision(Section, frozen=True):
    max_restarts: Annotated[int, between(0, 1000, "restarts")] = 5
    period_seconds: SomeSeconds = 10.0
    checkpoint_seconds: SomeSeconds = 5.0
    # below that, a busy machine would be taken for an endless loop
    step_seconds: Annotated[float, between(0.05, 60, "seconds")] = 1.0
    step_memory: Annotated[int, between(16 << 20, 1 << 40, "bytes")] = 256 << 20
    journal_bytes: Annotated[int, between(65_536, 1 << 30, "bytes")] = 1 << 20
    journal_total: Annotated[int, between(65_536, 1 << 40, "bytes")] = 32 << 20


class Live(Section, frozen=True):
    """What the live code is told; `settings()` is the plain dict that `begin` gets."""

    publisher_grace: Seconds = 30.0
    publisher_timeout: SomeSeconds = 20.0
    handshake_timeout: SomeSeconds = 10.0
    takeover: bool = False
    wait_for_publisher: Seconds = 0.0
    gop_cache_bytes: Annotated[int, between(65_536, 1 << 30, "bytes")] = 16 << 20
    viewer_max_lag: SomeSeconds = 5.0
    viewer_max_slow: SomeSeconds = 60.0
    max_message_bytes: Annotated[int, between(65_536, 64 << 20, "bytes")] = 8 << 20
    page: bool = True

    def settings(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


class Config(Section, frozen=True):
    """The whole configuration. After `load`, server.admin, server.state and server.patches are absolute paths."""

    server: Server = Server()
    log: Log = Log()
    patches: Patches = Patches()
    admin: Admin = Admin()
    rehearsal: Rehearsal = Rehearsal()
    probation: Probation = Probation()
    releases: Releases = Releases()
    network: Network = Network()
    supervision: Supervision = Supervision()
    live: Live = Live()


class Address(NamedTuple):
    """Where to listen; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """ "127.0.0.1:1935", "[::1]:1935", "localhost:0" or ":1935" (every interface) -> Address.

    Raises ConfigError with what is wrong and an example; the caller knows where the text was written.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not port or (":" in host and not bracketed) or (bracketed and ":" not in host):
        raise ConfigError(f'"{text}" is no ADDRESS:PORT; write for example "0.0.0.0:1935" or "[::1]:1935"')
    if not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ConfigError(f'"{text}" has the port "{port}"; write a number from 0 (any free port) to 65535')
    if any(c.isspace() or c in "/[]" for c in host):
        raise ConfigError(f'"{text}" has the host "{host}"; write an address or a name without "/" or spaces')
    return Address(host or "0.0.0.0", int(port))


def load(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, str | None]) -> Config:
    """Read and check everything; `path` None means no file. `overrides` are the flags, None where not given.

    Raises ConfigError.
    """
    tables = read(path) if path else {}
    source = str(path) if path else "the defaults"
    wheres = {name: f"{source}: [server] {name}" for name in OVERRIDES}
    wheres |= {
        "load": f"{source}: [admin] load",
        "look": f"{source}: [admin] look",
        "keys": f"{source}: [patches] keys",
    }
    for name in OVERRIDES:
        variable = f"STREAMD_{name.upper()}"
        for value, where in ((env.get(variable), variable), (overrides.get(name), f"--{name}")):
            if value:
                section = tables.setdefault("server", {})
                if isinstance(section, dict):  # otherwise the check below says what is wrong
                    section[name] = value
                    wheres[name] = where
    return settle(check(source, tables), env, wheres)


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {(e.strerror or str(e)).lower()}.") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 at byte {e.start}; save it as UTF-8.") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not TOML: {e}.") from e


def check(source: str, tables: Mapping[str, Any]) -> Config:
    """Tables as read -> Config, or the sentence about the first thing that is wrong."""
    sections = {}
    for name, table in tables.items():
        kind = known(f"{source}: [{name}] is no section", name, Config)
        if not isinstance(table, dict):
            raise ConfigError(
                f"{source}: {name} is a section; write [{name}] on a line of its own, then its keys."
            )
        values = {key: value_of(source, name, key, value, kind) for key, value in table.items()}
        sections[name] = kind(**values)
    return Config(**sections)


def value_of(source: str, section: str, key: str, value: Any, kind: Any) -> Any:
    """One value, checked against what its class declares."""
    where = f"{source}: [{section}] {key}"
    declared = known(f"{where} is no key of [{section}]", key, kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}; {wanted(key, declared, kind)}.")
    try:
        return msgspec.convert(value, declared)
    except msgspec.ValidationError:
        shown = json.dumps(value, ensure_ascii=False, default=str)
        raise ConfigError(f"{where} is {shown}; {wanted(key, declared, kind)}.") from None


def known(complaint: str, name: str, kind: Any) -> Any:
    """The declared type of a key or section of that name; otherwise refuse with the nearest name there is."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if name in hints:
        return hints[name]
    near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
    instead = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}."
    raise ConfigError(f"{complaint}; {instead}")


def wanted(key: str, declared: Any, kind: Any) -> str:
    """What to write instead, from the declaration: "write a whole number of bytes from 1 to 9, say key = 5"."""
    default = getattr(kind(), key)
    example = f"say {key} = {default}".replace("True", "true").replace("False", "false")
    if typing.get_origin(declared) is Literal:
        words = " or ".join(f'"{word}"' for word in typing.get_args(declared))
        return f'write {words}, say {key} = "{default}"'
    if typing.get_origin(declared) is Annotated:
        number, meta = typing.get_args(declared)
        what = "a whole number of" if number is int else "a number of"
        return f"write {what} {meta.description} from {meta.ge:_} to {meta.le:_}, {example}"
    if declared is bool:
        return f"write true or false without quotes, {example}"
    if typing.get_origin(declared) is tuple:
        return f'write a list of texts in quotes, say {key} = ["{EXAMPLES[key]}"]'
    return f'write text in quotes, say {key} = "{default}"'


def settle(config: Config, env: Mapping[str, str], wheres: Mapping[str, str]) -> Config:
    """Check what concerns several keys, parse addresses, and replace places left open by where they are."""
    server, network, live = config.server, config.network, config.live
    for name, text in (("rtmp", server.rtmp), ("http", server.http)):
        try:
            parse_address(text)
        except ConfigError as e:
            raise ConfigError(f"{wheres[name]}: {e}.") from None
    rtmp, http = parse_address(server.rtmp), parse_address(server.http)
    if rtmp == http and rtmp.port:
        raise ConfigError(
            f"{wheres['http']} is {http}, which rtmp has already; give one of them another port."
        )
    if network.flush_few_ms > network.flush_many_ms:
        raise ConfigError(
            f"[network] flush_few_ms is {network.flush_few_ms} and flush_many_ms {network.flush_many_ms}; "
            "the interval grows from few to many viewers, so write the smaller one first."
        )
    if live.viewer_max_lag > live.viewer_max_slow:
        raise ConfigError(
            f"[live] viewer_max_lag is {live.viewer_max_lag} and viewer_max_slow {live.viewer_max_slow}; a viewer "
            "would be closed before it was ever let skip, so write a larger viewer_max_slow."
        )
    admin = absolute(server.admin or default_admin_path(env))
    if len(os.fsencode(admin)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"{wheres['admin']}: {admin} is longer than the {MAX_SOCKET_PATH} bytes a unix socket's path may have; "
            "choose a shorter one with --admin."
        )
    settle_bounds(config)
    settle_trust(config, wheres)
    places = {
        "admin": admin,
        "state": absolute(server.state or default_state_directory(env)),
        "patches": absolute(server.patches),
    }
    return msgspec.structs.replace(config, server=msgspec.structs.replace(server, **places))


def settle_bounds(config: Config) -> None:
    """Limits that only make sense one below the other."""
    supervision, probation, rehearsal = config.supervision, config.probation, config.rehearsal
    if supervision.journal_bytes > supervision.journal_total:
        raise ConfigError(
            f"[supervision] journal_bytes is {supervision.journal_bytes} and journal_total {supervision.journal_total}; "
            "one broadcast may not have more than all together, so write a larger journal_total."
        )
    if probation.step_ms > supervision.step_seconds * 1000:
        raise ConfigError(
            f"[probation] step_ms is {probation.step_ms} and [supervision] step_seconds {supervision.step_seconds}; "
            "a step on probation has less time than any other, so write a smaller step_ms."
        )
    if rehearsal.replay_seconds > rehearsal.seconds:
        raise ConfigError(
            f"[rehearsal] replay_seconds is {rehearsal.replay_seconds} and seconds {rehearsal.seconds}; "
            "replaying is a part of the rehearsal, so write a smaller replay_seconds."
        )


def settle_trust(config: Config, wheres: Mapping[str, str]) -> None:
    """Who may change something, and whose patches are believed."""
    for name in ("load", "look"):
        members(getattr(config.admin, name), wheres[name])
    if config.admin.look and not config.admin.load:
        raise ConfigError(
            f"{wheres['look']} says who may only look, and load is empty, so that everyone may change something; "
            f'say who may, for example load = ["{EXAMPLES["load"]}"].'
        )
    if config.patches.require_signature and not config.patches.keys:
        raise ConfigError(
            f"{wheres['keys']} is empty and require_signature true, so no patch could ever be loaded; write the public "
            f'keys of those who sign, say keys = ["{EXAMPLES["keys"]}"].'
        )
    try:
        signing.parse_keys(config.patches.keys)
    except signing.SignatureError as error:
        raise ConfigError(f"{wheres['keys']}: {error}.") from None


def members(entries: Sequence[str], where: str) -> tuple[frozenset[int], frozenset[int]]:
    """The uids and the gids that "user:NAME", "group:NAME", "uid:N" and "gid:N" stand for. Raises ConfigError."""
    uids: set[int] = set()
    gids: set[int] = set()
    for entry in entries:
        kind, _, name = entry.partition(":")
        if kind in ("uid", "gid") and name.isascii() and name.isdigit() and int(name) < NOBODY:
            (uids if kind == "uid" else gids).add(int(name))
        elif kind in ("user", "group"):
            try:
                if kind == "user":
                    uids.add(pwd.getpwnam(name).pw_uid)
                else:
                    gids.add(grp.getgrnam(name).gr_gid)
            except (KeyError, ValueError):  # ValueError: a NUL in the name
                raise ConfigError(
                    f'{where} has "{entry}", and this machine knows no such {kind}; make it first, or write a number.'
                ) from None
        else:
            raise ConfigError(
                f'{where} has "{entry}"; write "user:NAME", "group:NAME", "uid:NUMBER" or "gid:NUMBER".'
            )
    return frozenset(uids), frozenset(gids)


def absolute(path: str) -> str:
    """From the working directory, or from home where the file says "~/"."""
    return os.path.abspath(os.path.expanduser(path))
