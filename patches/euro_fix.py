"""euro_fix: read titles as Windows-1252 where they are not UTF-8.

Encoders on Windows send titles in the machine's 8-bit character set. Version 1 of protocol.text takes it for
ISO-8859-1, in which the bytes 0x80..0x9F are control characters, and a price of 5 euros arrives with a hole
in it. Those who say ISO-8859-1 mean Windows-1252, so much so that the WHATWG Encoding Standard made it the
rule ("latin1" is a label of windows-1252). The five bytes that Windows-1252 leaves open stay what they were,
as in that standard.

No state changes, so there is nothing to convert: the next title is right.
"""

from __future__ import annotations

AMENDS = "protocol.text@1"
VERSION = 2
DIFFERS = "SendAll, Send, Join: titles that are not UTF-8 are read as Windows-1252: the bytes 0x80 to 0x9F become €, „, – and their like."

# The characters that the bytes 0x80..0x9F of a legacy text stand for, in order: those of Windows-1252.
SPECIAL = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ"
