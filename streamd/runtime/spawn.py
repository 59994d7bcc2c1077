"""Start a program while the interpreter goes on.

subprocess, os.fork and os.posix_spawn hold the interpreter's lock until the new process has called exec. That is half
a millisecond on an idle machine, and 4 to 20 ms on a busy one, where the new process must first be given its turn; so
long the loop, in whatever thread, would stand still. Here the C library's posix_spawn is called through ctypes, which
lets go of the lock.

The rule this file keeps: nothing is inherited but what is given. Descriptors of this process are closed by exec, for
Python makes none that are not; what it was itself started with beyond the first three is for the program to close.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Mapping, Sequence

SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80  # spawn.h
ROOM = 128  # words for one of the C library's opaque records; the largest, of glibc, takes 42
FIRST_FREE = 3  # after the three that a program begins with

Opaque = ctypes.c_uint64 * ROOM


def spawn(arguments: Sequence[str], files: Sequence[int], environment: Mapping[str, str]) -> int:
    """Run `arguments`, the first of which is the program's path, with these as its first descriptors, in "/" and in a
    session of its own. Gives its number; the caller waits for its end. Raises OSError."""
    libc = ctypes.CDLL(None)
    actions, attributes, signals = Opaque(), Opaque(), Opaque()
    pid = ctypes.c_int()
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*map(os.fsencode, arguments), None)
    told = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
    envp = (ctypes.c_char_p * (len(told) + 1))(*told, None)
    # out of the way of the numbers that they are to have
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE) for number in files]
    libc.posix_spawn_file_actions_init(actions)
    libc.posix_spawnattr_init(attributes)
    try:
        for place, number in enumerate(high):
            libc.posix_spawn_file_actions_adddup2(actions, number, place)
        libc.posix_spawn_file_actions_addchdir_np(actions, b"/")
        libc.posix_spawnattr_setflags(attributes, ctypes.c_short(SETSIGDEF | SETSIGMASK | SETSID))
        libc.sigemptyset(signals)
        libc.posix_spawnattr_setsigmask(attributes, signals)
        libc.sigfillset(signals)
        libc.posix_spawnattr_setsigdefault(attributes, signals)
        failure = libc.posix_spawn(ctypes.byref(pid), argv[0], actions, attributes, argv, envp)
    finally:
        libc.posix_spawn_file_actions_destroy(actions)
        libc.posix_spawnattr_destroy(attributes)
        for number in high:
            os.close(number)
    if failure:
        raise OSError(failure, os.strerror(failure), arguments[0])
    return pid.value
