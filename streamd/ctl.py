"""`streamd-ctl`: one request to the admin socket, one answer printed.

The rules this file keeps:

* It starts fast, because a shell asks it at every tab: no event loop, no third-party import but click and
  msgpack; `ctl_show` imports rich when it prints a table.
* The answer's `text` is the server's sentence; nothing is decided here that the server knows better.
* Exit codes are a contract: 0 done, 1 refused or failed and nothing changed, 2 usage, 3 server not reachable.

The wire: a unix stream socket, msgpack maps one after another. One request
`{"v": 1, "verb": ..., "args": {...}, "cwd": ..., "json": ...}`, then any number of progress records
`{"progress": ..., "done": ..., "of": ...}`, then one answer `{"ok": ..., "text": ...}` or
`{"ok": false, "stage": ..., "error": ...}`.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click
import msgpack
from click.shell_completion import CompletionItem

from streamd import __version__, ctl_show
from streamd.ctl_show import clean
from streamd.places import admin_paths, find_admin_path

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended

PROTOCOL = 1
# Longer than a rehearsal of thousands of sessions goes without a word.
TIMEOUT_SECONDS = 60.0
# A tab key that takes longer feels broken.
COMPLETION_SECONDS = 1.0
MAX_ANSWER = 256 << 20

Answer = dict[str, Any]
F = Callable[..., Any]


class Unreachable(Exception):
    """No server answered. The message says why and what to do."""


class Options:
    """What stands before or after the verb: --admin, --json, --timeout."""

    admin: str | None = None
    json: bool = False
    timeout: float = TIMEOUT_SECONDS


# ---- the connection --------------------------------------------------------------------------------------


def socket_path(admin: str | None) -> str:
    """Where the server is: the flag, STREAMD_ADMIN, or the first usual place that has a socket."""
    if path := admin or os.environ.get("STREAMD_ADMIN") or find_admin_path(os.environ):
        return path
    places = ", ".join(map(shlex.quote, admin_paths(os.environ)))
    raise Unreachable(
        f"No streamd runs here: there is no admin socket at {places}. "
        "Start one (systemctl start streamd, or scripts/run), or say where it is: streamd-ctl --admin PATH."
    )


def connect(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
        return connection
    except FileNotFoundError:
        why = "there is no such socket. Is streamd running? Its log line `ready` names its admin socket."
    except ConnectionRefusedError:
        why = "the socket is left over and nobody listens. Start streamd again: it will take its place."
    except PermissionError:
        why = "you may not use it. Join the group that owns it, or try sudo."
    except TimeoutError:
        why = f"nobody took the call for {timeout:g} s. The server hangs; its log may say why."
    except OSError as e:
        why = f"{(e.strerror or str(e)).lower()}. Say where the server's socket is: streamd-ctl --admin PATH."
    connection.close()
    raise Unreachable(f"{shlex.quote(path)}: {why}")


def records(connection: socket.socket, timeout: float) -> Iterator[Answer]:
    """The records of an answer as they come; ends where the server closes."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_ANSWER)
    while True:
        try:
            data = connection.recv(65_536)
        except TimeoutError:
            raise Unreachable(
                f"The server said nothing for {timeout:g} s (--timeout). It may still carry the request out: "
                "see streamd-ctl history."
            ) from None
        except OSError as e:
            raise Unreachable(f"The server dropped the line ({e.strerror}): see its log.") from None
        if not data:
            return
        unpacker.feed(data)
        try:
            for record in unpacker:
                if not isinstance(record, dict):
                    raise ValueError("not a map")
                yield record
        except (ValueError, msgpack.UnpackException):
            raise Unreachable("What answered there is not streamd's admin socket.") from None


def here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"  # the directory was deleted under us; absolute paths still work


def ask(
    options: Options, verb: str, args: dict[str, Any], progress: Callable[[Answer], None] | None = None
) -> Answer:
    """One request, one answer; every progress record goes to `progress`."""
    with connect(socket_path(options.admin), options.timeout) as connection:
        request = {"v": PROTOCOL, "verb": verb, "args": args, "cwd": here(), "json": options.json}
        try:
            connection.sendall(msgpack.packb(request))
        except OSError:
            pass  # a server that refuses before it has read everything has said why: read that
        for record in records(connection, options.timeout):
            if "ok" in record:
                return record
            if progress:
                progress(record)
    raise Unreachable(
        "The server closed the connection before it answered. See its log, and streamd-ctl history."
    )


# ---- printing --------------------------------------------------------------------------------------------


class Bar:
    """Progress on a terminal: one line that is written over, and gone when the answer comes."""

    WIDTH = 28

    def __init__(self) -> None:
        self.shown = False

    def __call__(self, record: Answer) -> None:
        done, of = int(record.get("done") or 0), int(record.get("of") or 0)
        filled = self.WIDTH * min(done, of) // of if of > 0 else 0
        count = f"  [{'#' * filled}{'.' * (self.WIDTH - filled)}] {done}/{of}" if of > 0 else ""
        sys.stderr.write(f"\r\x1b[K{clean(str(record.get('progress') or ''))}{count}")
        sys.stderr.flush()
        self.shown = True

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def run(verb: str, args: dict[str, Any], show: Callable[[Answer], None] | None = None) -> NoReturn:
    """Ask, print, exit: what every verb does. `show` prints an answer that is more than its `text`."""
    options = click.get_current_context().ensure_object(Options)
    bar = Bar() if not options.json and sys.stderr.isatty() else None
    try:
        answer = ask(options, verb, args, bar)
        code = OK if answer["ok"] else REFUSED
    except Unreachable as e:
        answer, code = {"ok": False, "stage": "connect", "error": str(e)}, UNREACHABLE
    except KeyboardInterrupt:
        click.echo("Interrupted. The server may still carry it out: see streamd-ctl history.", err=True)
        sys.exit(INTERRUPTED)
    finally:
        if bar:
            bar.clear()
    if options.json:
        click.echo(ctl_show.as_json(answer))
    elif code == OK and show:
        show(answer)
    elif code == OK:
        click.echo(clean(answer.get("text") or "Done."))
    else:
        stage = answer.get("stage")
        blame = f"Refused at {stage}: " if code == REFUSED and stage else ""
        why = answer.get("error") or answer.get("text") or "the server gave no reason."
        click.echo(clean(f"{blame}{why}"), err=True)
    sys.exit(code)


# ---- completion from the running server ------------------------------------------------------------------


def quietly(verb: str) -> Answer:
    """An answer for a tab key: quick, and {} where there is none."""
    context = click.get_current_context(silent=True)
    options = Options()
    if context:
        options.admin = context.ensure_object(Options).admin
    options.timeout = COMPLETION_SECONDS
    try:
        answer = ask(options, verb, {})
    except (Unreachable, OSError):
        return {}
    return answer if answer.get("ok") else {}


def items(names: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(map(str, names)) if name.startswith(incomplete)]


def complete_modules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with ctx:
        return items(quietly("modules").get("modules") or (), incomplete)


def complete_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with ctx:
        found = quietly("sessions").get("sessions") or ()
    return items((session["name"] for session in found), incomplete)


def complete_releases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with ctx:
        found = quietly("status").get("releases") or ()
    return items((release["number"] for release in found), incomplete)


def complete_patches(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Python files and directories from here, and what the server's patches directory has."""
    directory, start = os.path.split(incomplete)
    names = []
    try:
        for entry in os.scandir(directory or "."):
            hidden = entry.name.startswith((".", "__"))
            if entry.name.startswith(start) and not hidden and (entry.is_dir() or entry.name.endswith(".py")):
                names.append(os.path.join(directory, entry.name) + ("/" if entry.is_dir() else ""))
    except OSError:
        pass  # no such directory: nothing to offer
    with ctx:
        names += quietly("modules").get("patches") or ()
    return items(set(names), incomplete)


# ---- the command line ------------------------------------------------------------------------------------


def remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep an option wherever it stood, before the verb or after it."""
    if value is not None and param.name:
        setattr(ctx.ensure_object(Options), param.name, value)


def options(command: F) -> F:
    """--admin, --json and --timeout, which every verb takes."""
    said: dict[str, Any] = {"callback": remember, "expose_value": False, "default": None}
    patience = f"How long the server may be silent ({TIMEOUT_SECONDS:g})."
    # not readable is for connect() to say, which knows what to do about it
    path = click.Path(readable=False)
    for option in (
        click.option("--timeout", type=click.FloatRange(0.1), metavar="SECONDS", help=patience, **said),
        click.option("--json", is_flag=True, help="Print the whole answer as one JSON object.", **said),
        click.option("--admin", type=path, metavar="PATH", help="The server's admin socket.", **said),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@options
@click.version_option(__version__, prog_name="streamd-ctl")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Watch and patch a running streamd.

    Exit codes: 0 done; 1 refused or failed, nothing changed; 2 usage; 3 server not reachable.

    Times are local, without the year where it is this one; with --json they are whole and in UTC.
    """
    ctx.ensure_object(Options)


paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", shell_complete=complete_patches)


@cli.command()
@options
@paths
def load(paths: tuple[str, ...]) -> None:
    """Load patches: files or directories, all or nothing.

    A PATH is looked up from here and then in the server's patches directory.
    """
    run("load", {"paths": list(paths)})


@cli.command()
@options
@paths
def check(paths: tuple[str, ...]) -> None:
    """Rehearse a load on copies of every session, and change nothing."""
    run("check", {"paths": list(paths)})


@cli.command()
@options
@click.option(
    "--to",
    type=click.IntRange(0),
    metavar="RELEASE",
    shell_complete=complete_releases,
    help="Go back to this release instead of the one before.",
)
def rollback(to: int | None) -> None:
    """Go back to the release before, with every session."""
    run("rollback", {"to": to})


@cli.command()
@options
def keep() -> None:
    """Make the running release the one that a restart boots."""
    run("keep", {})


@cli.command()
@options
def status() -> None:
    """Releases, and who is live."""
    run("status", {}, ctl_show.status)


@cli.command()
@options
@click.argument("name", required=False, shell_complete=complete_sessions)
def sessions(name: str | None) -> None:
    """Sessions, or everything about one."""
    run("sessions", {"name": name}, ctl_show.session if name else ctl_show.sessions)


@cli.command()
@options
@click.argument("name", shell_complete=complete_sessions)
def trace(name: str) -> None:
    """The last events of a session and what it did."""
    run("trace", {"name": name}, ctl_show.trace)


@cli.command()
@options
@click.argument(
    "numbers", nargs=-1, type=click.IntRange(0), metavar="[N M]", shell_complete=complete_releases
)
def diff(numbers: tuple[int, ...]) -> None:
    """What changed between two releases; without numbers, between the running one and its parent."""
    if len(numbers) not in (0, 2):
        raise click.UsageError("Give two releases, as in: streamd-ctl diff 1 2. Or none.")
    old, new = numbers or (None, None)
    run("diff", {"from": old, "to": new}, ctl_show.diff)


@cli.command()
@options
@click.option(
    "--last", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="How many lines."
)
def history(last: int) -> None:
    """Who loaded, rolled back and kept what, and when."""
    run("history", {"last": last}, ctl_show.history)


@cli.command("new-patch")
@options
@click.argument("module", shell_complete=complete_modules)
def new_patch(module: str) -> None:
    """Write a ready-to-edit patch of MODULE into the patches directory."""
    run("new-patch", {"module": module})


@cli.command()
@options
def purge() -> None:
    """Let go of old releases, and say what still holds the others."""
    run("purge", {})


@cli.command()
@options
def stop() -> None:
    """Stop the server: tell publishers, let viewers finish."""
    run("stop", {})


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    bash: eval "$(streamd-ctl completion bash)" in ~/.bashrc, and likewise for zsh in ~/.zshrc;
    fish: streamd-ctl completion fish | source, in ~/.config/fish/config.fish.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made, shell
    # the template alone: `source()` would first start a bash to ask for its version
    values = made(cli, {}, "streamd-ctl", "_STREAMD_CTL_COMPLETE").source_vars()
    click.echo(made.source_template % values)


def main() -> None:
    """The entry point."""
    try:
        cli(prog_name="streamd-ctl", complete_var="_STREAMD_CTL_COMPLETE")
    except BrokenPipeError:
        # `streamd-ctl history | head`: not an error, and nothing left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OK)


if __name__ == "__main__":
    main()
