"""Writes a pack of two files to standard output, for `git index-pack`: one of 8 MiB that compresses to nearly nothing, and
one that copies all of it sixteen times. Says on standard error what the two are called."""
import hashlib, struct, sys, zlib

BASE = bytes(8 << 20)
COPIES = 16
BLOB, REF_DELTA = 3, 7


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def entry_head(kind, size):
    first, rest = kind << 4 | size & 0x0F, size >> 4
    return bytes([first | 0x80]) + varint(rest) if rest else bytes([first])


def name(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content)


# Copy from the beginning: no byte of the offset is given, and three of the size.
copy = bytes([0b11110000]) + struct.pack("<I", len(BASE))[:3]
delta = varint(len(BASE)) + varint(COPIES * len(BASE)) + COPIES * copy
pack = b"PACK" + struct.pack(">II", 2, 2)
pack += entry_head(BLOB, len(BASE)) + zlib.compress(BASE)
pack += entry_head(REF_DELTA, len(delta)) + name(BASE).digest() + zlib.compress(delta)
sys.stdout.buffer.write(pack + hashlib.sha1(pack).digest())
print(name(BASE).hexdigest(), name(COPIES * BASE).hexdigest(), file=sys.stderr)
