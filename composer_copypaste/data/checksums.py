"""Checksums, by which a resumed run knows its data."""

import hashlib
from collections.abc import Iterable


def checksum(parts: Iterable[bytes]) -> str:
    """A SHA-256 of the parts in their order; the same bytes parted otherwise have another."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
