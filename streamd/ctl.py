"""`streamd-ctl`: one request to the admin socket, one answer printed.

The rules this file keeps:

* It starts fast, because a shell asks it at every tab: no event loop, no third-party import but click and
  msgpack; rich is imported when a table is printed, and what only one verb needs when that is asked for.
* The answer's `text` is the server's sentence; nothing is decided here that the server knows better.
* Exit codes are a contract: 0 done, 1 refused or failed and nothing changed, 2 usage, 3 server not reachable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from streamd import __version__, ctl_report, ctl_show
from streamd.ctl_show import clean
from streamd.ctl_stages import stages
from streamd.ctl_wire import TIMEOUT_SECONDS, Answer, Listener, Options, Unreachable, ask

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended

# A tab key that takes longer feels broken.
COMPLETION_SECONDS = 1.0

F = Callable[..., Any]


# ---- asking and printing ---------------------------------------------------------------------------------


def asked(verb: str, args: dict[str, Any]) -> tuple[Answer, int]:
    """The answer and its exit code; on a terminal with a view of the progress."""
    options = click.get_current_context().ensure_object(Options)
    view = None if options.json else stages()
    failed, stage = "stopped", ""
    try:
        answer = ask(options, verb, args, view)
        stage = str(answer.get("stage") or "")
        failed = "" if answer["ok"] else "differs" if stage == "differences" else "failed"
        return answer, OK if answer["ok"] else REFUSED
    except Unreachable as e:
        return {"ok": False, "stage": "connect", "error": str(e)}, UNREACHABLE
    except KeyboardInterrupt:
        watched = view is not None and view.name == "probation"
        on = (
            "The probation goes on without you: see streamd-ctl status."
            if watched
            else "The server may still carry it out: see streamd-ctl history."
        )
        failed = "" if watched else failed
        if view:
            view.end(failed)
        click.echo(f"Interrupted. {on}", err=True)
        sys.exit(INTERRUPTED)
    finally:
        if view:
            view.end(failed, stage)


def finish(answer: Answer, code: int, show: Callable[[Answer], None] | None = None) -> NoReturn:
    """Print and exit. `show` prints an answer that is more than its `text`."""
    if wants_json():
        click.echo(ctl_show.as_json(answer))
    elif code == OK and show:
        show(answer)
    elif code == OK:
        click.echo(clean(answer.get("text") or "Done."))
    else:
        click.echo(clean(refusal(answer, code)), err=True)
    sys.exit(code)


def refusal(answer: Answer, code: int) -> str:
    """Why not, with the stage that said so; a source line and its caret below it, where the server sends them."""
    why = answer.get("error") or answer.get("text") or "the server gave no reason."
    stage = answer.get("stage") if code == REFUSED else None
    if path := answer.get("report_path"):
        why = why if str(path) in why else f"{why}\nCrash report: {path}"
    if stage == "probation":
        return f"Failed on probation: {why}"
    if stage == "differences":
        return f"Refused: {why}"
    return f"Refused at {stage}: {why}" if stage else str(why)


def run(verb: str, args: dict[str, Any], show: Callable[[Answer], None] | None = None) -> NoReturn:
    """Ask, print, exit: what most verbs do."""
    finish(*asked(verb, args), show)


def only_said(args: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given; 0 is something to say."""
    return {
        name: value
        for name, value in args.items()
        if value is not None and value is not False and value != []
    }


def wants_json() -> bool:
    return click.get_current_context().ensure_object(Options).json


def somebody_reads() -> bool:
    """True where an answer goes to a person: details, and a question, are welcome."""
    return not wants_json() and sys.stdout.isatty()


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


def complete_pins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with ctx:
        return items(quietly("status").get("pins") or (), incomplete)


def complete_patches(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Python files and directories from here, and what the server's patches directory has."""
    names = python_files(incomplete)
    with ctx:
        names += quietly("modules").get("patches") or ()
    return items(set(names), incomplete)


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return items(python_files(incomplete), incomplete)


def python_files(incomplete: str) -> list[str]:
    """Python files and directories from here."""
    directory, start = os.path.split(incomplete)
    names = []
    try:
        for entry in os.scandir(directory or "."):
            hidden = entry.name.startswith((".", "__"))
            if entry.name.startswith(start) and not hidden and (entry.is_dir() or entry.name.endswith(".py")):
                names.append(os.path.join(directory, entry.name) + ("/" if entry.is_dir() else ""))
    except OSError:
        pass  # no such directory: nothing to offer
    return names


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


# what a time may be written in, in seconds
UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
LONGEST_SECONDS = 86_400.0
TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.ASCII)


def seconds(value: str | float) -> float:
    """A time as people write it: 30s, 500ms, 2min, 1h; a bare number is seconds. Raises BadParameter."""
    if isinstance(value, float):
        return value  # a default of ours
    found = TIME.fullmatch(value.strip().lower())
    if not found or (found[2] and found[2] not in UNITS):
        raise click.BadParameter(f"{value!r} is no time; write 30s, 500ms, 2min or 1h.")
    number = float(found[1]) * UNITS[found[2] or "s"]
    if number > LONGEST_SECONDS:
        raise click.BadParameter(f"{value!r} is longer than a day.")
    return number


def milliseconds(value: str) -> float:
    """The same in ms. A bare number would be taken for one thing and be the other."""
    if value.strip() and value.strip()[-1:] in "0123456789.":
        raise click.BadParameter(f"{value!r} has no unit; write {value}ms or {value}s.")
    return round(seconds(value) * 1000, 6)


def percentages(value: str) -> tuple[float, ...]:
    """Waves: growing percentages, as in 1,10,100. Raises BadParameter."""
    try:
        shares = tuple(float(part.strip().removesuffix("%")) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} are no waves; write growing percentages, as in 1,10,100."
        ) from None
    if not all(0 < share <= 100 for share in shares) or list(shares) != sorted(set(shares)):
        raise click.BadParameter(
            f"{value!r}: each wave is larger than the one before, the last at most 100: 1,10,100."
        )
    return shares


def said_reason(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("say why, in a sentence: status and history show it.")
    return value


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


def rehearsal_flags(command: F) -> F:
    """What a rehearsal is told, and so `load`, `check` and `plan` alike."""
    for option in (
        click.option(
            "--irreversible",
            metavar="REASON",
            callback=said_reason,
            help="State need not come back: no rollback will cross this release.",
        ),
        click.option(
            "--max-pause",
            type=milliseconds,
            metavar="10ms",
            help="Refuse if a session is predicted to pause for longer.",
        ),
        click.option(
            "--shadow",
            type=seconds,
            metavar="SECONDS",
            help="Try it on live events for so long, before it is used.",
        ),
        click.option(
            "--only",
            multiple=True,
            metavar="PATTERN",
            shell_complete=complete_sessions,
            help="Only the broadcasts of these names, as in 'live/studio*'.",
        ),
    ):
        command = option(command)
    return command


def wave_flags(command: F) -> F:
    """Who moves when: `load`, and `plan` which tells it."""
    for option in (
        click.option(
            "--at", type=click.Choice(["keyframe"]), help="Move each session at its next key frame."
        ),
        click.option(
            "--bake",
            type=seconds,
            metavar="30s",
            help="The probation before the next wave; after the last one it is the usual.",
        ),
        click.option(
            "--waves",
            type=percentages,
            metavar="1,10,100",
            help="Wave after wave, in percent of the broadcasts.",
        ),
        click.option(
            "--percent",
            type=click.FloatRange(0, 100, min_open=True),
            metavar="N",
            help="So many percent of the broadcasts, at least one.",
        ),
    ):
        command = option(command)
    return command


def checked(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that go together. Raises UsageError."""
    if flags.get("waves") and flags.get("percent") is not None:
        raise click.UsageError("--percent is one wave and --waves are several: give one of them.")
    if flags.get("bake") is not None and not flags.get("waves"):
        raise click.UsageError("--bake is the time between --waves; for a single move it is --probation.")
    return only_said(
        {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    )


@cli.command()
@options
@paths
@click.option("--wait", is_flag=True, help="Stay until the probation is over, and exit by its result.")
@click.option(
    "--probation",
    type=seconds,
    metavar="30s",
    help="How long the former code stands by, instead of the configured time.",
)
@click.option("--accept-differences", is_flag=True, help="The patch is meant to act differently: do not ask.")
@wave_flags
@rehearsal_flags
def load(paths: tuple[str, ...], **flags: Any) -> None:
    """Load patches: files or directories, all or nothing.

    A PATH is looked up from here and then in the server's patches directory. A bare time is in seconds.
    """
    args = {"paths": list(paths), **checked(flags)}
    answer, code = asked("load", args)
    if answer.get("stage") == "differences" and somebody_reads():
        ctl_report.wrong(answer.get("report") or {})
        click.echo(clean(answer.get("error") or ""))
        if sys.stdin.isatty():
            if not agreed("Load it all the same?"):
                click.echo("Not loaded. Nothing was changed.", err=True)
                sys.exit(REFUSED)
            answer, code = asked("load", {**args, "accept_differences": True})
        else:
            sys.exit(REFUSED)
    if somebody_reads():
        if code == OK and (told := ctl_report.pauses(answer)):
            click.echo(clean(told))
        elif code != OK:
            ctl_report.wrong(answer.get("report") or {})
    finish(answer, code)


def agreed(question: str) -> bool:
    """A yes that was typed; no answer at all is a no."""
    try:
        return click.confirm(question, default=False)
    except click.Abort:
        click.echo()
        return False


@cli.command()
@options
@paths
@rehearsal_flags
def check(paths: tuple[str, ...], **flags: Any) -> None:
    """Rehearse a load on copies of every session, and change nothing."""
    answer, code = asked("check", {"paths": list(paths), **checked(flags)})
    if (
        code == REFUSED
        and answer.get("report")
        and not click.get_current_context().ensure_object(Options).json
    ):
        ctl_report.report(answer["report"])
    finish(answer, code, ctl_report.check)


@cli.command()
@options
@paths
@wave_flags
@rehearsal_flags
def plan(paths: tuple[str, ...], **flags: Any) -> None:
    """Say what a load would do: modules, records, who moves when and for how long, what is in the way."""
    run("plan", {"paths": list(paths), **checked(flags)}, ctl_report.plan)


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
@click.argument("name", shell_complete=complete_sessions)
def pin(name: str) -> None:
    """Let no load and no rollback move broadcast NAME: not during the final."""
    run("pin", {"name": name})


@cli.command()
@options
@click.argument("name", shell_complete=complete_pins)
def unpin(name: str) -> None:
    """Let broadcast NAME move again, to the running release at once."""
    run("unpin", {"name": name})


@cli.command()
@options
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Write over files that were edited since.")
def promote(directory: Path, force: bool) -> None:
    """Write the merged source of the running release into DIR, a clone of streamd, for committing."""
    from streamd import ctl_files

    answer, code = asked("promote", {})
    if code == OK:
        try:
            done = ctl_files.promote(answer, directory, force)
        except ctl_files.FilesError as e:
            finish({"ok": False, "stage": "promote", "error": str(e)}, REFUSED)
        answer |= {
            "directory": str(directory),
            "written": done.written,
            "removed": done.removed,
            "text": done.sentence(directory, answer.get("release")),
        }
    finish(answer, code)


@cli.command()
@options
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...", shell_complete=complete_files)
@click.option(
    "--key",
    type=click.Path(),
    metavar="FILE",
    help="An SSH key, or the public half of one that an agent holds.",
)
def sign(patches: tuple[str, ...], key: str | None) -> None:
    """Sign patches with an SSH key: writes PATCH.sig beside each.

    The same as ssh-keygen -Y sign -n streamd-patch. Without --key it is yours in ~/.ssh, or the first in the agent.
    """
    from streamd import ctl_files

    try:
        done = ctl_files.sign(patches, key)
    except ctl_files.FilesError as e:
        finish({"ok": False, "stage": "sign", "error": str(e)}, REFUSED)
    finish({"ok": True, "signatures": done.signatures, "key": done.public, "text": done.sentence()}, OK)


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
@click.option("--verify", is_flag=True, help="See whether an entry was changed or taken away; exit 1 if so.")
@click.option(
    "--head", metavar="SHA256", help="What --verify said before: the history must go on from there."
)
def history(last: int, verify: bool, head: str | None) -> None:
    """Who loaded, rolled back and kept what, and when."""
    verify = verify or head is not None
    answer, code = asked("history", only_said({"last": last, "verify": verify, "head": head}))
    if code == REFUSED and answer.get("entries") and not wants_json():
        ctl_show.history(answer)
    finish(answer, code, ctl_show.history)


@cli.command()
@options
@click.option(
    "--every",
    type=seconds,
    default=1.0,
    show_default="1s",
    metavar="TIME",
    help="Between two samples.",
)
def top(every: float) -> None:
    """Sessions, rates, releases and a probation, live. q or Ctrl-C ends; without a terminal, one sample."""
    from streamd import ctl_top

    options = click.get_current_context().ensure_object(Options)

    def status(listener: Listener) -> Answer:
        return ask(options, "status", {}, listener)

    try:
        if somebody_reads() and sys.stdin.isatty():
            answer = ctl_top.watch(status, max(every, ctl_top.QUICKEST))
            if answer.get("ok"):
                sys.exit(OK)
        else:
            answer = ctl_top.once(status, every)
    except Unreachable as e:
        finish({"ok": False, "stage": "connect", "error": str(e)}, UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(OK)
    finish(answer, OK if answer.get("ok") else REFUSED, ctl_top.printed)


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
