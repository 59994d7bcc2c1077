"""While a release is on probation, the one before it handles every event as well, in a state of its own.

The rule this file keeps: of two answers one is carried out, and the old code's is always at hand. The guard's state is
the one that the session had before it moved, simply kept; since then it has been given the same events. As long as
both answered alike it is what the session would be if nobody had loaded anything, and to go back is an assignment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import is_
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from streamd.runtime import telling
from streamd.runtime.commands import Difference, check, difference
from streamd.runtime.journal import BLAMED, FAILED, SHARED, Convert, handed, revive
from streamd.runtime.link import now_ms
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lift, lower, same
from streamd.runtime.vocabulary import Event, Joined, Move, PeerError, Tick

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

    @property
    def lost(self) -> bool:
        """Whether it has failed already, so that whoever still can is to stay with the old code."""

    @property
    def reversible(self) -> bool:
        """Whether there is a way back for the new code's records."""

    def objection(self, old: Answer, new: Answer, found: Difference) -> str:
        """Why a difference is a failure although differences were explained; "" if it is none."""

    def failed(self, session: Session, event: Event, sentence: str, report: Path | None) -> None:
        """The new code failed. The old code has handled the event (its commands are carried out next) and the session
        is on its release, unless it could not be brought there."""

    def differed(self, session: Session, event: Event, difference: Difference) -> None:
        """The answers differ, which had been explained."""

    def cured(self, session: Session, event: Event, sentence: str) -> None:
        """The old code fails where the new code does not."""


SAMPLED = 4  # one event of so many is timed: a look at the clock of processor time is a system call
RECENT = 5  # timed events that an average is of
SLOW = 0.005  # s: below it no one suffers
TIMES_SLOWER = 10
LONGEST = 0.02  # s of one event, as far as an average is concerned


class Deviation(Exception):
    """The new code answered something other than the old code did, or left what is no state."""


class Guard:
    """One session's: the old code's state, how many events both have handled, and in how many their answers differed.

    `alive` is False once the old code has failed where the new one had not: there is nothing to compare with then.
    `guests` are those that the old code hands over or is to take in, lowered, by link.
    """

    __slots__ = (
        "alive",
        "differences",
        "differs",
        "events",
        "guests",
        "state",
        "took_new",
        "took_old",
        "watch",
    )

    def __init__(self, watch: Watch, state: Any) -> None:
        self.watch = watch
        self.state = state
        self.events = 0
        self.differences = 0
        self.differs = False  # the last answers did, so that what is said now is the new code's doing
        self.alive = True
        self.guests: dict[int, Any] = {}
        self.took_old = self.took_new = 0.0  # s of processor time, the last RECENT events weighing most

    @property
    def exact(self) -> bool:
        """Whether the guard's state is what the session would have without the new code."""
        return self.alive and not self.differences

    @property
    def slow(self) -> str:
        """A sentence if the new code takes far longer than the old."""
        mean = self.took_new / RECENT
        if self.events < RECENT * SAMPLED or mean < SLOW or self.took_new < TIMES_SLOWER * self.took_old:
            return ""
        times = self.took_new / max(self.took_old, 1e-9)
        return f"an event takes it {mean * 1000:.1f} ms, {times:.0f} times as long as the running code"

    def timed(self, began: float, between: float, ended: float) -> None:
        """Processor time of the two steps. One that is cut off by a collection of garbage must not weigh too much."""
        self.took_new += min(between - began, LONGEST) - self.took_new / RECENT
        self.took_old += min(ended - between, LONGEST) - self.took_old / RECENT

    def die(self) -> None:
        self.alive = False
        self.differs = True
        self.state = None
        self.guests.clear()


def compare(old: Answer, new: Answer) -> Difference | None:
    """Where two answers part, neither of which is a crash. Two that blame the peer are alike, whatever they say."""
    if isinstance(old, list) and isinstance(new, list):
        return difference(old, new, same)
    if isinstance(old, PeerError) and isinstance(new, PeerError):
        return None
    blame = new if isinstance(new, PeerError) else old
    assert isinstance(blame, PeerError)
    words = "the peer is now blamed" if isinstance(new, PeerError) else "the peer is no longer blamed"
    return Difference(0, "PeerError", f"{words}: {telling.text_of(blame)}")


def alike(left: Any, right: list[Any]) -> bool:
    """Whether two answers are the same to the byte. Commands of two kinds may be equal as tuples, hence their types;
    guests of two releases never are."""
    return type(left) is list and left == right and all(map(is_, map(type, left), map(type, right)))


def same_guests(watch: Watch, convert: Convert) -> Callable[[Any, Any], bool]:
    """A test of two guests of one Move: the new code's, brought back, must be the old code's. Where there is no way back
    it is the old code's that is converted.

    It raises what lowering and converting raise: a guest that cannot be brought back is no answer.
    """

    def alike(left: Any, right: Any) -> bool:
        if left is None or right is None:
            return left is right
        old, new = lower(left), lower(right)
        if watch.reversible:
            return same(convert(new, watch.new, watch.old), old)
        return same(convert(old, watch.old, watch.new), new)

    return alike


def is_crash(answer: Answer) -> TypeGuard[BaseException]:
    return isinstance(answer, BaseException) and not isinstance(answer, PeerError)


# ---- the guarded step ----------------------------------------------------------------------------------------


def step(home: Sessions, session: Session, event: Event) -> None:
    """One event, for the new code and then for the old; then the commands of one of them."""
    guard = session.guard
    assert guard is not None
    watch = guard.watch
    kept = home.kept(session, event)
    if watch.lost and guard.exact:
        stay(home, session, kept)
        return
    home.watchdog.seconds = home.bounds.guarded_ms / 1000
    timing = not guard.events % SAMPLED
    began = thread_time() if timing else 0.0
    new = ask(home, session, session.release, session.state, event)
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
            event = _for_the_old(home, session, guard, kept)
    except BaseException as error:  # a guest that there is no way back for
        fall_back(home, session, kept, error, None, f"a guest cannot be brought back: {said(error)}")
        return
    between = thread_time() if timing else 0.0
    old = ask(home, session, watch.old, guard.state, event, new)
    if timing:
        guard.timed(began, between, thread_time())
    if old is new and not guard.slow:
        guard.differs = False
        settle(home, session, kept, new)
        return
    if is_crash(new) or is_crash(old):
        _crashed(home, session, kept, new, old)
        return
    try:
        found = _compared(home, guard, old, new)
    except BaseException as error:
        fall_back(home, session, kept, error, old, f"a guest cannot be brought back: {said(error)}")
        return
    guard.differs = found is not None
    wrong = guard.slow
    if found is not None and not wrong:
        wrong = (
            f"it answers otherwise: {found.sentence}" if watch.strict else watch.objection(old, new, found)
        )
    if wrong:
        fall_back(home, session, kept, new, old, wrong)
        return
    if found is not None:
        guard.differences += 1
        watch.differed(session, kept, found)
    settle(home, session, kept, new)


def stay(home: Sessions, session: Session, kept: Event) -> None:
    """The probation has failed in another session: be on the old release without having asked the new code again."""
    guard = session.guard
    assert guard is not None
    try:
        event = _for_the_old(home, session, guard, kept)
    except BaseException as error:
        fall_back(home, session, kept, error, None, f"a guest cannot be brought back: {said(error)}")
        return
    session.change_code(guard.watch.old, guard.state, home.lowered(guard.state))
    home.handle(session, event)


def _for_the_old(home: Sessions, session: Session, guard: Guard, kept: Event) -> Event:
    """The event once more, with a guest in the records of the old code: the one that the old code handed over, or one
    that is brought back."""
    old = guard.watch.old
    with home.watchdog.guarding():
        if type(kept) is Joined and (guest := guard.guests.pop(kept.link, None)) is not None:
            return kept._replace(guest=handed(guest, old, old, home.convert))
        return revive(kept, session.release, old, home.convert)


def _compared(home: Sessions, guard: Guard, old: Answer, new: Answer) -> Difference | None:
    if isinstance(old, list) and isinstance(new, list) and Move in map(type, old):
        for command in old:
            if type(command) is Move:
                guard.guests[command.link] = home.lower(command.guest)
        with home.watchdog.guarding():
            return difference(old, new, same_guests(guard.watch, home.convert))
    return compare(old, new)


def ask(
    home: Sessions, session: Session, release: Release, state: Any, event: Event, like: Answer | None = None
) -> Answer:
    """What one release's code makes of an event, within its bounds of time and memory; `like` itself, which has been
    checked, where the answer is the same."""
    watchdog = home.watchdog
    try:
        watchdog.token = (event,)  # a new object for each of the two
        commands = release.step(state, event)
        watchdog.token = None
        if isinstance(like, list) and alike(commands, like):
            return like
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
        report = _report(home, session, kept, before, new, old if answer is None else answer, sentence)
    if answer is None:
        home.crash(session, kept, new if is_crash(new) else Deviation(sentence))
        watch.failed(session, kept, sentence, report)
        return
    session.change_code(watch.old, state, home.lowered(state))
    session.steps += 1
    session.journal.note(kept, FAILED)  # so it was for the new code; the checkpoint is of the time after it
    # before the commands: who begins by one of them begins on the old code
    watch.failed(session, kept, sentence, report)
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
            log.warning("%s: no way back for its state: %s", session.name, telling.told(error))
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
    sentence = f"what it keeps is no state: {telling.text_of(error)}"
    checkpoint = home.lowered(guard.state) if guard.alive else None
    if guard.alive and checkpoint is None:
        return False  # nor can the old code's
    report = None
    if home.first_report(watch):
        report = _report(home, session, event, session.state, Deviation(sentence), None, sentence)
    if guard.alive:
        session.change_code(watch.old, guard.state, checkpoint)
    watch.failed(session, event, sentence, report)
    return guard.alive


def said(answer: Answer) -> str:
    """What was raised, and where in live code."""
    if isinstance(answer, list):
        return f"{len(answer)} commands"
    return telling.placed(answer)


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
