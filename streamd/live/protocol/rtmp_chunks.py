"""RTMP's chunk layer (RTMP 5.3): a stream of bytes cut anywhere <-> messages.

The rule this file keeps: a Reader holds at most one read, the half-read messages, and what the header
compression needs to know; all three are bounded. Set Chunk Size and Abort (5.4.1, 5.4.2) are about chunks and
are obeyed here; every other message comes out of `pull`, in the order in which messages are completed.

Reads are kept as the bytes they came as and parsed by offset: a message that lies whole in one read and in
one chunk, as most do, costs one slice. Of what a read cuts off, a header or a short message is put in front
of the next read; the payload of a long one goes to the half-read message at once, so that no byte is copied
again and again.
"""

from __future__ import annotations

from struct import Struct
from typing import TypeAlias

from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

Message: TypeAlias = tuple[int, int, int, bytes]  # (type, message stream, timestamp mod 2^32 in ms, payload)

SET_CHUNK_SIZE, ABORT = 1, 2
DEFAULT_CHUNK = 128  # bytes of payload in a chunk until told otherwise
# 5.4.1 says SHOULD; nobody sends less, and a read of one-byte chunks takes as long as 300 reads
MIN_CHUNK = 128
MAX_MESSAGE = 8 << 20  # bytes; a key frame of 60 Mbit. The length field could say 16 MiB
MAX_STREAMS = 64  # chunk streams of one peer; encoders use 3 to 6
# Bytes; one that a read cuts off waits in the buffer, which is cheaper than to collect it
SHORT_MESSAGE = 16 << 10
BYTES_PER_MESSAGE = 8  # on the wire, in the mean over a read; a frame of silence in AAC takes 10
MIN_CREDIT = 256  # messages in a read however short
EXTENDED = 0xFFFFFF  # a timestamp field that says: see the four bytes behind the header (5.3.1.3)
WRAP = 0xFFFFFFFF

_U32 = Struct(">I")
_LITTLE = Struct("<I")
# Message headers, unpacked from the last byte of the basic header on, so that three-byte fields share a word.
_FULL = Struct(">II")  # basic and timestamp; length and type
_SHORT = Struct(">I")  # basic and timestamp


@state
class Stream:
    """What one chunk stream remembers: its last header (5.3.1.2) and the message that is being read."""

    type: int = 0
    stream: int = 0
    length: int = 0
    timestamp: int = 0  # of the message that is being read or was read last
    delta: int = 0  # what a message that begins with a type 3 chunk adds to the timestamp
    word: int = -1  # the extended timestamp of the last header, -1 if it had none
    left: int = 0  # bytes of the message that are still to come; 0 between messages
    part: bytearray = field(factory=bytearray)


@state
class Reader:
    """A peer's chunk stream, read up to `buffer[at]`."""

    buffer: bytes = b""
    at: int = 0
    chunk_size: int = DEFAULT_CHUNK
    max_message: int = MAX_MESSAGE
    whole: int = DEFAULT_CHUNK  # the smaller of the two: a message of this size is allowed and fits one chunk
    credit: int = MIN_CREDIT  # messages that may still come out of this read
    half_read: int = 0  # bytes in all parts together
    current: int = 0  # the chunk stream whose chunk was cut off by the end of a read
    rest: int = 0  # bytes of that chunk still to come; 0 at a chunk's boundary
    streams: dict[int, Stream] = field(factory=dict)


def feed(reader: Reader, data: bytes) -> None:
    """Take a read. What has been pulled is let go of."""
    if reader.at < len(reader.buffer):
        reader.buffer = reader.buffer[reader.at :] + data
    else:
        reader.buffer = data
    reader.at = 0
    reader.credit = MIN_CREDIT + len(reader.buffer) // BYTES_PER_MESSAGE


def allow(reader: Reader, max_message: int) -> None:
    """Say how many bytes a message may have from now on."""
    reader.max_message = max_message
    reader.whole = min(reader.chunk_size, max_message)


def waiting(reader: Reader) -> int:
    """Bytes that have been fed and not been looked at yet."""
    return len(reader.buffer) - reader.at


def pull(reader: Reader) -> Message | None:
    """The next whole message, or None when more bytes are needed. Raises PeerError."""
    buffer, at = reader.buffer, reader.at
    size = len(buffer)
    while at < size:
        if reader.rest:
            stream = reader.streams[reader.current]
        else:
            # the usual case, 1 µs: a type 1 header on a known chunk stream, and the whole message behind it
            first = buffer[at]
            known = reader.streams.get(first & 0x3F) if 0x42 <= first < 0x80 else None
            if known is not None and not known.left and at + 8 <= size:
                time, kind = _FULL.unpack_from(buffer, at)
                time &= 0xFFFFFF
                length, type = kind >> 8, kind & 0xFF
                end = at + 8 + length
                if time != EXTENDED and type > ABORT and length <= reader.whole:
                    if end <= size:
                        spend(reader)
                        known.word = -1
                        known.delta = time
                        known.length = length
                        known.type = type
                        known.timestamp = timestamp = known.timestamp + time & WRAP
                        reader.at = end
                        return type, known.stream, timestamp, buffer[at + 8 : end]
                    if length <= SHORT_MESSAGE:
                        break
            # any other
            begun = begin_chunk(reader, at)
            if begun < 0:
                break
            at = begun
            stream = reader.streams[reader.current]
        at = collect(reader, stream, at)
        if stream.left == 0:
            spend(reader)
            reader.at = at
            payload = bytes(stream.part)
            forget(reader, stream)
            if stream.type > ABORT:
                return stream.type, stream.stream, stream.timestamp, payload
            obey(reader, stream.type, payload)
    reader.at = at
    return None


def spend(reader: Reader) -> None:
    """One message more. PeerError when a read is all headers: each message costs far more than its bytes."""
    reader.credit -= 1
    if reader.credit < 0:
        raise PeerError(f"a read of {len(reader.buffer)} bytes with more messages than any stream has")


def begin_chunk(reader: Reader, at: int) -> int:
    """Read a chunk's headers at `at` and make it the current one; gives where its payload begins, or -1 to
    wait.
    """
    buffer = reader.buffer
    form = buffer[at] >> 6
    csid = buffer[at] & 0x3F
    body = at + 1
    if csid < 2:  # 5.3.1.1: ids from 64 on take one or two bytes more
        body += csid + 1
        if body > len(buffer):
            return -1
        csid = 64 + buffer[at + 1] + (buffer[at + 2] << 8 if csid else 0)
    known = reader.streams.get(csid)
    stream = known if known is not None else new_stream(reader, form, csid)
    body = read_header(reader, stream, form, body)
    if body >= 0:
        if known is None:
            reader.streams[csid] = stream
        reader.current = csid
        reader.rest = min(reader.chunk_size, stream.left)
    return body


def new_stream(reader: Reader, form: int, csid: int) -> Stream:
    """A chunk stream that was not used before. It must begin with a full header; type 1, which lacks no more
    than
    the message stream, is let pass: librtmp begins its pings so."""
    if form > 1:
        raise PeerError(
            f"chunk stream {csid} begins with a header of type {form}, which refers to an earlier one"
        )
    if len(reader.streams) >= MAX_STREAMS:
        raise PeerError(f"more than {MAX_STREAMS} chunk streams")
    return Stream()


def read_header(reader: Reader, stream: Stream, form: int, at: int) -> int:
    """Read a message header of type `form` (5.3.1.2); gives where the payload begins, or -1 to wait for more
    bytes.

    `at` is behind the basic header. Nothing is changed when the header is not all here.
    """
    if form == 3:
        return read_no_header(reader, stream, at)
    buffer = reader.buffer
    end = at + (11, 7, 3)[form]
    if end > len(buffer):
        return -1
    if form == 2:
        time = _SHORT.unpack_from(buffer, at - 1)[0] & 0xFFFFFF
    else:
        time, kind = _FULL.unpack_from(buffer, at - 1)
        time &= 0xFFFFFF
    if stream.left:
        raise PeerError(f"a new header inside a message of which {stream.left} bytes are missing")
    if time == EXTENDED:
        if end + 4 > len(buffer):
            return -1
        stream.word = time = _U32.unpack_from(buffer, end)[0]
        end += 4
    else:
        stream.word = -1
    if form < 2:
        if kind >> 8 > reader.max_message:
            raise PeerError(f"a message of {kind >> 8} bytes; the limit is {reader.max_message}")
        stream.length = kind >> 8
        stream.type = kind & 0xFF
    if form == 0:
        stream.stream = _LITTLE.unpack_from(buffer, at + 7)[0]
        stream.timestamp = time
        # 5.3.1.2.4: a type 3 chunk after this one repeats the field, as a difference; FFmpeg counts on it at
        # small times. Past 4.66 h nobody can mean it: there the next message has the same time, as nginx-rtmp
        # reads it.
        stream.delta = time if stream.word < 0 else 0
    else:
        stream.timestamp = stream.timestamp + time & WRAP
        stream.delta = time
    stream.left = stream.length
    return end


def read_no_header(reader: Reader, stream: Stream, at: int) -> int:
    """A type 3 chunk: the message goes on, or the next one begins with the same header. Gives as read_header
    does.

    Behind an extended timestamp most senders repeat the four bytes (5.3.1.3), some do not: they are taken for
    a repetition only if they say what the header said, or what time it is.
    """
    timestamp = stream.timestamp if stream.left else stream.timestamp + stream.delta & WRAP
    if stream.word >= 0:
        if at + 4 > len(reader.buffer):
            return -1
        word = _U32.unpack_from(reader.buffer, at)[0]
        if word in (stream.word, timestamp):
            at += 4
    if not stream.left:
        if stream.length > reader.max_message:
            raise PeerError(f"a message of {stream.length} bytes; the limit is {reader.max_message}")
        stream.timestamp = timestamp
        stream.left = stream.length
    return at


def collect(reader: Reader, stream: Stream, at: int) -> int:
    """Move what is here of the current chunk to its message; gives where it ends."""
    piece = reader.buffer[at : at + reader.rest]
    reader.rest -= len(piece)
    at += len(piece)
    keep(reader, stream, piece)
    if stream.left >= reader.chunk_size and reader.rest == 0 and stream.word < 0:
        return collect_run(reader, stream, at)
    return at


def collect_run(reader: Reader, stream: Stream, at: int) -> int:
    """Move a run of full chunks of one message at once: with chunks of 128 bytes this is ten times as fast.

    Such a run is chunks of one length, each behind the same one-byte header.
    """
    step = reader.chunk_size + 1
    count = min(stream.left // reader.chunk_size, (len(reader.buffer) - at) // step)
    end = at + count * step
    if reader.current < 64 and reader.buffer[at:end:step].count(0xC0 | reader.current) == count:
        starts = range(at + 1, end, step)
        keep(reader, stream, b"".join([reader.buffer[start : start + step - 1] for start in starts]))
        return end
    return at


def keep(reader: Reader, stream: Stream, piece: bytes) -> None:
    """Add to a half-read message. PeerError when all of them together are too much."""
    stream.part += piece
    stream.left -= len(piece)
    reader.half_read += len(piece)
    if reader.half_read > 2 * reader.max_message:
        raise PeerError(f"half-read messages of {reader.half_read} bytes in all")


def forget(reader: Reader, stream: Stream) -> None:
    """Let go of a message that was half read."""
    reader.half_read -= len(stream.part)
    stream.part = bytearray()
    stream.left = 0


def obey(reader: Reader, kind: int, payload: bytes) -> None:
    """Set Chunk Size (5.4.1) and Abort (5.4.2)."""
    if kind not in (SET_CHUNK_SIZE, ABORT):
        return
    if len(payload) < 4:
        raise PeerError(f"a protocol control message (type {kind}) of {len(payload)} bytes")
    value = _U32.unpack_from(payload)[0]
    if kind == ABORT:
        stream = reader.streams.get(value)
        if stream is not None:
            forget(reader, stream)
    elif MIN_CHUNK <= value <= 0x7FFFFFFF:
        reader.chunk_size = value
        reader.whole = min(value, reader.max_message)
    else:
        raise PeerError(f"a chunk size of {value} bytes; at least {MIN_CHUNK} are needed")


# ---- writing ---------------------------------------------------------------------------------------------


def chunk(csid: int, type: int, stream: int, timestamp: int, payload: bytes, chunk_size: int) -> bytes:
    """One message as chunks: a full header, then type 3. `timestamp` in ms goes out mod 2^32.

    Nothing in it depends on what was sent before on that chunk stream, so the bytes serve every receiver.
    """
    timestamp &= WRAP
    size = len(payload)
    short = timestamp if timestamp < EXTENDED else EXTENDED
    tail = b"" if timestamp < EXTENDED else _U32.pack(timestamp)
    fields = (short << 32 | size << 8 | type).to_bytes(7, "big") + _LITTLE.pack(stream)
    head = basic_header(0, csid) + fields + tail
    if size <= chunk_size:
        return head + payload
    again = basic_header(3, csid) + tail
    return head + again.join([payload[at : at + chunk_size] for at in range(0, size, chunk_size)])


def basic_header(form: int, csid: int) -> bytes:
    """A chunk's basic header (5.3.1.1) in the shortest form for chunk stream 2..65599."""
    if csid < 64:
        return bytes((form << 6 | csid,))
    if csid < 320:
        return bytes((form << 6, csid - 64))
    return bytes((form << 6 | 1, csid - 64 & 0xFF, csid - 64 >> 8))
