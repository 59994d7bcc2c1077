"""Bytes to messages and back, one module for a protocol, and no policy.

Everything here is sans-IO: a reader is a plain `@state` record that bytes are fed to and messages are pulled
from, a writer is a function that gives bytes. A peer's fault is a PeerError with a sentence; nothing else may
come out of hostile bytes, and everything a peer can make grow has a named limit. `rtmp` is the dialogue of an
RTMP connection over `rtmp_handshake`, `rtmp_chunks` and the value formats `amf0` and `amf3`; `websocket` is
the framing of RFC 6455; `text` decides what the 8-bit strings of encoders mean.
"""
