"""Messages to frames and back, with no connections and no policy. `flv` reads and writes the bodies that RTMP
and FLV share, `h264` and `aac` keep what a decoder must know before the first frame (`Track`: learn, then
`config`), `timeline` turns a publisher's 32-bit clock into the broadcast's own 64-bit one, `metadata` reads
and writes onMetaData, and `frame.Frame` is the one currency between all protocols. Everything here is pure:
bytes and numbers go in, records and bytes come out, and a peer's fault is a PeerError.
"""
