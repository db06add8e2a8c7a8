"""Two processes that write to one pipe."""

from __future__ import annotations

import asyncio
import os
import sys

WRITER = """
import sys
from proxy.telemetry.lines import write_lines
lines = [b"%b%b\\n" % (sys.argv[1].encode(), b"x" * (at % 700)) for at in range(20_000)]
write_lines(1, lines, shared=True)
"""


async def test_lines_of_several_writers_stay_whole() -> None:
    reading, writing = os.pipe()
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, name, stdout=writing) for name in ("a", "b")
    ]
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = await asyncio.to_thread(lambda: [line[:-1] for line in pipe])
    assert [await one.wait() for one in writers] == [0, 0]
    for name in (b"a", b"b"):
        assert [len(line) - 1 for line in found if line[:1] == name] == [at % 700 for at in range(20_000)]
    assert {line.strip(b"x") for line in found} == {b"a", b"b"}
