"""Frames: any cut of the bytes gives the same, what the RFC forbids is refused, and rubbish raises nothing else."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.websocket.frames import (
    BINARY,
    CLOSE,
    PING,
    SENDABLE,
    TEXT,
    FrameReader,
    ProtocolError,
    close_frame,
    closing,
    frame,
    mask,
    unmasked,
)


class Kept:
    def __init__(self, masked: bool) -> None:
        self.masked = masked
        self.frames: list[tuple[int, bytes]] = []
        self.pieces = b""

    def on_frame(self, first: int, raw: bytes, head: int) -> None:
        self.frames.append((first, unmasked(raw, head, self.masked)))

    def on_large(self, first: int, length: int, raw: bytes, head: int) -> bool:
        self.frames.append((first, b"large %d" % length))
        self.pieces += raw[head:]
        return True

    def on_piece(self, data: bytes, ended: bool) -> None:
        self.pieces += data


def read(data: bytes, cuts: list[int], *, masked: bool = True, deflate: bool = False, hold: int = 65536) -> object:
    kept = Kept(masked)
    reader = FrameReader(kept, masked=masked, deflate=deflate, hold=hold)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            reader.feed(data[start:end])
    except ProtocolError as error:
        return error.code, kept.frames
    return kept.frames, reader.message, reader.held


FRAMES = st.builds(
    lambda opcode, payload: frame(opcode, payload, masked=True),
    st.sampled_from([TEXT, BINARY, PING]),
    st.binary(max_size=100) | st.integers(120, 130).map(lambda size: b"x" * size),
)


@given(st.lists(FRAMES, max_size=6), st.binary(max_size=20), st.lists(st.integers(0, 5000), max_size=10))
def test_any_cut_gives_the_same(frames: list[bytes], rest: bytes, cuts: list[int]) -> None:
    data = b"".join(frames) + rest
    assert read(data, cuts) == read(data, [])


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=6), st.booleans(), st.booleans())
def test_rubbish_is_refused_the_same_way_at_any_cut(data: bytes, cuts: list[int], masked: bool, deflate: bool) -> None:
    assert read(data, cuts, masked=masked, deflate=deflate) == read(data, [], masked=masked, deflate=deflate)


@given(st.binary(max_size=70_000), st.booleans(), st.sampled_from([TEXT, BINARY]))
def test_what_is_written_is_read(payload: bytes, masked: bool, opcode: int) -> None:
    frames = read(frame(opcode, payload, masked=masked), [], masked=masked, hold=1 << 20)
    assert frames == ([(0x80 | opcode, payload)], 0, 0)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_a_mask_is_its_own_inverse(payload: bytes, key: bytes) -> None:
    assert mask(mask(payload, key), key) == payload
    assert mask(payload, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def masked_frame(first: int, payload: bytes = b"", length: bytes = b"") -> bytes:
    head = length or bytes((0x80 | len(payload),))
    return bytes((first,)) + head + b"\0\0\0\0" + payload


@pytest.mark.parametrize(
    "data",
    [
        masked_frame(0x91), masked_frame(0xA1), masked_frame(0xC1), masked_frame(0xF1),
        masked_frame(0x83), masked_frame(0x87), masked_frame(0x8B), masked_frame(0x8F),
        masked_frame(0x09), masked_frame(0x08), masked_frame(0x80, b"x"), masked_frame(0x00, b"x"),
        masked_frame(0x01, b"a") + masked_frame(0x81, b"b"), masked_frame(0x01, b"a") + masked_frame(0x02, b"b"),
        masked_frame(0x89, b"x" * 126, b"\xfe\x00\x7e"), masked_frame(0x81, b"x" * 5, b"\xfe\x00\x05"),
        masked_frame(0x81, b"", b"\xff" + (65535).to_bytes(8)), masked_frame(0x81, b"", b"\xff\x80" + bytes(7)),
        b"\x81\x05hello", b"\x88\x7e", b"\xc9\x80",
    ],
)  # fmt: skip
def test_what_the_protocol_forbids(data: bytes) -> None:
    refused = read(data, [])
    assert isinstance(refused, tuple)
    assert refused[0] == 1002


def test_a_server_that_masks_is_refused_too() -> None:
    assert read(masked_frame(0x81, b"x"), [], masked=False) == (1002, [])


def test_compressed_frames_where_it_was_agreed_and_only_first_ones() -> None:
    good = masked_frame(0x41, b"a") + masked_frame(0x80, b"b")
    assert read(good, [], deflate=True) == ([(0x41, b"a"), (0x80, b"b")], 0, 0)
    assert read(masked_frame(0x01, b"a") + masked_frame(0xC0, b"b"), [], deflate=True) == (1002, [(1, b"a")])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ProtocolError):
        closing(code.to_bytes(2))


def test_close_frames() -> None:
    assert closing(b"") == (1005, "")
    assert {closing(code.to_bytes(2) + b"why") for code in SENDABLE} == {(code, "why") for code in SENDABLE}
    for bad in (b"\x03", b"\x03\xe8\xff"):
        with pytest.raises(ProtocolError):
            closing(bad)
    long = close_frame(1000, "é" * 100, masked=False)
    assert (long[0], long[1] <= 125) == (0x80 | CLOSE, True)
    assert closing(long[2:])[1] == "é" * 61


class Holder(Kept):
    def on_large(self, first: int, length: int, raw: bytes, head: int) -> bool:
        return False


def test_a_large_frame_that_comes_byte_by_byte_is_joined_once() -> None:
    """Else a client makes the proxy copy a thousand times what it sends."""
    data = frame(BINARY, b"z" * 300_000, masked=True)
    reader = FrameReader(kept := Holder(True), masked=True)
    began = time.process_time()
    for at in range(len(data)):
        reader.feed(data[at : at + 1])
    assert time.process_time() - began < 3
    assert kept.frames == [(0x82, b"z" * 300_000)]
    assert reader.held == 0
