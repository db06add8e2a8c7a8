"""Random hexadecimal digits, drawn from the operating system in blocks: identifiers and nonces need nothing slower."""

from __future__ import annotations

import os

_BLOCK = 4096


class Entropy:
    __slots__ = ("_digits", "_position")

    def __init__(self) -> None:
        self._digits = b""
        self._position = 0

    def hex(self, digits: int) -> bytes:
        """That many digits, never given out twice."""
        start = self._position
        end = start + digits
        if end > len(self._digits):
            self._digits = os.urandom(_BLOCK).hex().encode()
            start, end = 0, digits
        self._position = end
        return self._digits[start:end]
