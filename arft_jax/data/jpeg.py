"""Counts the scans of a JPEG file without decoding it (ITU-T T.81, annex B)."""

import re

_MARKER = re.compile(rb"\xff([^\x00\xff])")  # before a zero, 0xFF is data; before another one, padding
_BARE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a length: TEM, RST0 to RST7, SOI
_SCAN, _END = 0xDA, 0xD9


def n_scans(data: bytes) -> int:
    r"""Scans up to the end of the image, counted from marker to marker, as libjpeg reads them.

    What only looks like a scan, in the thumbnail inside the metadata for example, is not counted.

    >>> n_scans(b"\xff\xd8" + 2 * b"\xff\xda\0\3.data\xff\0data" + b"\xff\xd9")
    2
    """
    n, at = 0, 0
    while match := _MARKER.search(data, at):
        marker, at = match[1][0], match.end()
        if marker == _END:
            break
        if marker not in _BARE:
            n += marker == _SCAN
            at += int.from_bytes(data[at : at + 2], "big")
    return n
