"""While a release is on probation, the one before it handles every event as well, in a state of its own.

The rule this file keeps: of two answers one is carried out, and the old code's is always at hand. The guard's state is
the one that the session had before it moved, simply kept; since then it has been given the same events. As long as
both answered alike it is what the session would be if nobody had loaded anything, and to go back is an assignment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from streamd.runtime.commands import Difference, check, difference
from streamd.runtime.journal import BLAMED, FAILED, SHARED, Convert, revive
from streamd.runtime.net import now_ms
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lift, lower, same
from streamd.runtime.vocabulary import Event, PeerError, Tick

if TYPE_CHECKING:
    from streamd.runtime.session import Session, Sessions

log = logging.getLogger("streamd")

Answer = list[Any] | BaseException  # of a step: checked commands, or what it raised


class Watch(Protocol):
    """A probation, as its guards see it. What they tell is only noted: they are in the middle of a step."""

    @property
    def old(self) -> Release: ...

    @property
    def new(self) -> Release: ...

    @property
    def strict(self) -> bool:
        """Whether a difference between the answers is a failure."""

    def failed(self, session: Session, event: Event, sentence: str, report: Path | None) -> None:
        """The new code failed. The old code has handled the event (its commands are carried out next) and the session
        is on its release, unless it could not be brought there."""

    def differed(self, session: Session, event: Event, difference: Difference) -> None:
        """The answers differ, which had been explained."""

    def cured(self, session: Session, event: Event, sentence: str) -> None:
        """The old code fails where the new code does not."""


class Deviation(Exception):
    """The new code answered something other than the old code did, or left what is no state."""


class Guard:
    """One session's: the old code's state, how many events both have handled, and in how many their answers differed.

    `alive` is False once the old code has failed where the new one had not: there is nothing to compare with then.
    """

    __slots__ = ("alive", "differences", "events", "state", "watch")

    def __init__(self, watch: Watch, state: Any) -> None:
        self.watch = watch
        self.state = state
        self.events = 0
        self.differences = 0
        self.alive = True

    @property
    def exact(self) -> bool:
        """Whether the guard's state is what the session would have without the new code."""
        return self.alive and not self.differences

    def die(self) -> None:
        self.alive = False
        self.state = None


def compare(old: Answer, new: Answer, same_guest: Callable[[Any, Any], bool]) -> Difference | None:
    """Where two answers part, neither of which is a crash. Two that blame the peer are alike, whatever they say."""
    if isinstance(old, list) and isinstance(new, list):
        return difference(old, new, same_guest)
    if isinstance(old, PeerError) and isinstance(new, PeerError):
        return None
    words = "the peer is now blamed" if isinstance(new, PeerError) else "the peer is no longer blamed"
    return Difference(0, "PeerError", f"{words}: {new if isinstance(new, PeerError) else old}")


def same_guests(old: Release, new: Release, convert: Convert) -> Callable[[Any, Any], bool]:
    """A test of two guests of one Move: the new code's, brought back, must be the old code's.

    It raises what lowering and converting raise: a guest that cannot be brought back is no answer.
    """

    def alike(left: Any, right: Any) -> bool:
        if left is None or right is None:
            return left is right
        return same(convert(lower(right), new, old), lower(left))

    return alike


def is_crash(answer: Answer) -> TypeGuard[BaseException]:
    return isinstance(answer, BaseException) and not isinstance(answer, PeerError)


# ---- the guarded step ----------------------------------------------------------------------------------------


def step(home: Sessions, session: Session, event: Event) -> None:
    """One event, for the new code and then for the old; then the commands of one of them."""
    guard = session.guard
    assert guard is not None
    watch, new_release = guard.watch, session.release
    kept = home.kept(session, event)
    home.watchdog.seconds = home.bounds.guarded_ms / 1000
    new = ask(home, session, new_release, session.state, event)
    home.watchdog.seconds = home.watchdog.step_seconds
    guard.events += 1
    if not guard.alive:
        if is_crash(new):
            fall_back(home, session, kept, new, None, said(new))
        else:
            settle(home, session, kept, new)
        return
    try:
        if type(kept) in SHARED:
            with home.watchdog.guarding():
                event = revive(kept, new_release, watch.old, home.convert)
    except BaseException as error:  # a guest that there is no way back for
        fall_back(home, session, kept, error, None, f"a guest cannot be brought back: {error}")
        return
    old = ask(home, session, watch.old, guard.state, event)
    if is_crash(new) or is_crash(old):
        _crashed(home, session, kept, new, old)
        return
    try:
        found = compare(old, new, same_guests(watch.old, new_release, home.convert))
    except BaseException as error:
        fall_back(home, session, kept, error, old, f"a guest cannot be brought back: {error}")
        return
    if found is not None and watch.strict:
        fall_back(home, session, kept, new, old, f"it answers otherwise: {found.sentence}")
        return
    if found is not None:
        guard.differences += 1
        watch.differed(session, kept, found)
    settle(home, session, kept, new)


def ask(home: Sessions, session: Session, release: Release, state: Any, event: Event) -> Answer:
    """What one release's code makes of an event, within its bounds of time and memory."""
    watchdog = home.watchdog
    try:
        watchdog.token = (event,)  # a new object for each of the two
        commands = release.step(state, event)
        watchdog.token = None
        check(commands, session.groups, len(session.links), event)
        return commands
    except BaseException as error:
        watchdog.token = None
        return error


def settle(home: Sessions, session: Session, kept: Event, answer: Answer) -> None:
    """Do what an answer says that is no crash."""
    if isinstance(answer, list):
        home.done(session, kept, answer)
    elif isinstance(answer, PeerError):
        home.note(session, kept, BLAMED)
        home.blame(session, kept, answer)


def _crashed(home: Sessions, session: Session, kept: Event, new: Answer, old: Answer) -> None:
    """One of them crashed, or both."""
    guard = session.guard
    assert guard is not None
    if not is_crash(old):
        fall_back(home, session, kept, new, old, said(new))
    elif is_crash(new):  # not the patch's fault
        home.crash(session, kept, new)
        follow(home, session)
    else:
        guard.die()
        guard.watch.cured(session, kept, f"the old code fails there: {said(old)}")
        settle(home, session, kept, new)


def follow(home: Sessions, session: Session) -> None:
    """The session has gone back to an earlier state: its guard's state is made anew from that one."""
    guard = session.guard
    if guard is None or not guard.alive:
        return
    old = guard.watch.old
    try:
        with home.watchdog.guarding():
            guard.state = lift(home.convert(lower(session.state), session.release, old), old.record)
    except BaseException:
        guard.die()


def fall_back(
    home: Sessions, session: Session, kept: Event, new: Answer, old: Answer | None, sentence: str
) -> None:
    """The new code has failed: the old code's answer counts, and the session is on its release again.

    `old` is None where the old code could not be asked.
    """
    guard = session.guard
    assert guard is not None
    watch = guard.watch
    exact = guard.exact and old is not None
    before = None if exact else home.state_before(session)
    state, answer = (guard.state, old) if exact else _brought_back(home, session, kept, before, old)
    if is_crash(new) and answer is not None and is_crash(answer):
        home.crash(session, kept, new)  # the old code cannot do it either
        return
    report = None
    if home.first_report(watch):
        before = home.state_before(session) if exact else before
        report = _report(home, session, kept, before, new, old or answer, sentence)
    if answer is None:
        home.crash(session, kept, new if is_crash(new) else Deviation(sentence))
        watch.failed(session, kept, sentence, report)
        return
    session.change_code(watch.old, state, lowered(state))
    session.steps += 1
    session.journal.note(kept, FAILED)  # so it was for the new code; the checkpoint is of the time after it
    watch.failed(
        session, kept, sentence, report
    )  # before the commands: whoever begins by one begins on the old code
    if isinstance(answer, PeerError):
        home.blame(session, kept, answer)
    elif isinstance(answer, list):
        if old is None and guard.state is state:
            home.turn_away(session, getattr(kept, "link", 0))  # nobody has taken it in
        home.carry_out(session, kept, answer)


def _brought_back(
    home: Sessions, session: Session, kept: Event, before: Any, old: Answer | None
) -> tuple[Any, Answer | None]:
    """The new code's state from before the event, converted, and what the old code makes of the event from there.

    Where that cannot be had it is the guard's own state and answer; and without those (None, None).
    """
    guard = session.guard
    assert guard is not None
    target = guard.watch.old
    if before is not None:
        try:
            with home.watchdog.guarding():
                state = lift(home.convert(lower(before), session.release, target), target.record)
                event = revive(kept, session.release, target, home.convert)
        except BaseException as error:
            log.warning("%s: no way back for its state: %s", session.name, error)
        else:
            answer = ask(home, session, target, state, event)
            if not guard.alive or not is_crash(answer):
                return state, answer
    if not guard.alive:
        return None, None
    return guard.state, [] if old is None else old


def not_plain(home: Sessions, session: Session, error: StateError) -> bool:
    """The new code's state cannot be lowered, which a checkpoint has found. True if the guard's state took its place."""
    guard = session.guard
    if guard is None:
        return False
    watch, event = guard.watch, Tick(now_ms(), "checkpoint")
    sentence = f"what it keeps is no state: {error}"
    checkpoint = lowered(guard.state) if guard.alive else None
    if guard.alive and checkpoint is None:
        return False  # nor can the old code's
    report = None
    if home.first_report(watch):
        report = _report(home, session, event, session.state, Deviation(sentence), None, sentence)
    if guard.alive:
        session.change_code(watch.old, guard.state, checkpoint)
    watch.failed(session, event, sentence, report)
    return guard.alive


def lowered(state: Any) -> Any:
    """The state lowered; None where it is not plain."""
    try:
        return lower(state)
    except StateError:
        return None


def said(answer: Answer) -> str:
    return f"{type(answer).__name__}: {answer}"


def _report(
    home: Sessions, session: Session, kept: Event, before: Any, new: Answer, old: Answer | None, sentence: str
) -> Path | None:
    watch = session.guard.watch if session.guard is not None else None
    facts = {
        "release": session.release.number,
        "release_before": watch.old.number if watch is not None else None,
        "event": kept,
        "state": home.told_state(before),
        "new_answer": said(new) if isinstance(new, BaseException) else new,
        "old_answer": said(old) if isinstance(old, BaseException) else old,
        "last_events": session.journal.told(),
    }
    error = new if isinstance(new, BaseException) and is_crash(new) else Deviation(sentence)
    return home.reports.write(session.name, error, facts)
