"""The kernel: a small OTP for one process. It knows bytes, links, groups, timers and releases, never media.

What a session is, and what happens in it:

    vocabulary  events in, commands out: the contract with every future patch
    state       plain, typed state; lower() to tagged dicts, lift() back
    session     pinned release + state + mailbox; one event, one step, then its commands
    commands    what a step may answer: checked before the first is carried out, and compared
    journal     checkpoints and the events since: the state before any event can be made again
    guard       on probation: the old release handles each event too, and answers where the new one fails
    watchdog    a step that does not return, or takes all memory, is interrupted
    health      errors that are no exceptions, and whether there are more of them than before
    supervisor  tasks and sessions restarted with intensity; crash reports
    trace       counters said once a second
    preview     values for a report: cut, bounded, printable
    telling     what live code has raised, in words, without running any more of it
    link        one connection's socket;  group: a ring of units and who gets them;  net: all of them, and the pump

What code there is:

    release     one private, immutable import of one directory of live code
    source      a text of live code as a syntax tree, and errors that point into it
    law         what live code may not do
    patchfile   read, check and merge patches: texts in, a tree of texts out
    migrate     a lowered state's way from a release to its child, and back
    ways        the way between any two releases
    library     releases in memory and on disk; the one that a start begins with
    store       their directories, which one is kept
    history     what was asked and what came of it, each entry chained to the one before
    seal        what nobody may change, and whether somebody has

The patch path:

    wishes      what may be asked of it, and how it says no
    drafting    from patch files to a rehearsed, imported release
    rehearse    the child process of a rehearsal, seen from here;  rehearsal, tryout: what runs in it;  wire: between
    rare        what happens rarely, made up for a rehearsal
    selection   who moves first
    mover       sessions from release to release
    probation   what the guards of a new release have seen;  trial: wave after wave until the verdict
    ledger      one change at a time, each in the history
    upgrade     check, plan, load, rollback, keep, pin, purge, promote
    verbs       what an operator may ask, from arguments to answer
    admin       the unix socket, and who may ask what
    sentences   the words of the answers

Inside, arrows point upwards only, whatever the order above: nobody below imports who uses it. What a rehearsal's child
imports (commands, journal, law, migrate, patchfile, rare, release, state, telling, vocabulary, watchdog, ways) has no event
loop in it.
"""
