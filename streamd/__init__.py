"""streamd: a live media server whose live code is patched while people watch.

Everything that may ever need a fix lies under `streamd.live` and is a pure step over plain state:
`step(state, event) -> commands`. The kernel, `streamd.runtime`, keeps the connections, imports complete
releases of the live code side by side and moves sessions from one to the next and back; `streamd.drivers` are
the parts that cannot be plain data. `streamd.server` is the daemon, `streamd.ctl` the operator's command.
"""

__version__ = "1.0.0"
