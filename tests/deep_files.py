"""Image files of 16 and 32 bits, written byte by byte: Pillow itself writes no 16-bit colors."""

import struct
import zlib
from pathlib import Path

import numpy as np


def write_png(path: Path, pixels: np.ndarray) -> None:
    """uint16 pixels, grey (h, w), with alpha (h, w, 2), colors (h, w, 3) or both (h, w, 4)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = (*pixels.shape, 1)[:3]
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_tiff(path: Path, pixels: np.ndarray, *, bits: int | None = None, order: str = "<", planes: int = 1) -> None:
    """Uncompressed pixels of any type, grey (h, w) or colors (h, w, 3), in one strip."""
    height, width, channels = (*pixels.shape, 1)[:3]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits = pixels.dtype.itemsize * 8 if bits is None else bits
    if bits == 12:
        text = ["".join(f"{value:012b}" for value in row) for row in pixels]
        data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, [width]), (257, [height]), (258, [bits] * channels), (259, [1]), (262, [1 if channels == 1 else 2])]
    tags += [(273, [8]), (277, [channels]), (278, [height]), (279, [len(data)]), (284, [planes])]
    tags += [(339, [kind] * channels)]
    place, entries, beyond = 8 + len(data) + 2 + 12 * len(tags) + 4, b"", b""
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values))
        entries += packed if len(values) == 1 else struct.pack(f"{order}I", place + len(beyond))
        beyond += packed if len(values) > 1 else b""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    path.write_bytes(start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + beyond)
