"""The kernel: a small OTP for one process. It knows bytes, links, groups, timers and releases, never media.

    vocabulary  events in, commands out: the contract with every future patch
    state       plain, typed state; lower() to tagged dicts, lift() back
    session     pinned release + state + mailbox; one event, one step, then its commands
    supervisor  tasks and sessions restarted with intensity; crash reports
    release     one private, immutable import of one directory of live code
    source      source text: parsed, pointed at in an error
    law         what live code may not do, read from the syntax tree
    patchfile   read, check and merge a patch: text in, directory out
    migrate     a lowered state's way from one release to another
    upgrade     check, load, rollback, keep, purge: rehearse, point of no return, move, answer
    store       releases, history and the kept number on disk
    net         links and groups <-> events and commands; the pump
    trace       the last events of each session; counters said once a second
    admin       the unix socket
    verbs       what an operator may ask, from arguments to answer

Inside, arrows point upwards in this list's dependencies only: trace, state and vocabulary know nobody; net
knows vocabulary and trace; session knows net and release; upgrade knows session, store and patchfile.
"""
