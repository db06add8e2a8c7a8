"""An upstream that fails as it is told: python -m tests.bench.faulty PORT CONTROL_PORT.

The control port takes a line: `mode good|slow|reset|share`, or `count FROM TO` (seconds of time.time), which is
answered with how many requests arrived in between.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import uvloop

SLOW_SECONDS = 1.5


class Faulty:
    def __init__(self) -> None:
        self.mode = "good"
        self.arrivals: list[float] = []
        self._numbers = itertools.count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.arrivals.append(time.time())
                mode = self.mode
                if mode == "reset":
                    return
                if mode == "slow":
                    await asyncio.sleep(SLOW_SECONDS)
                failed = mode == "share" and next(self._numbers) % 10 < 6
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % (500 if failed else 200))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode().split()
        if words[0] == "mode":
            self.mode = words[1]
            writer.write(b"ok\n")
        else:
            first, last = float(words[1]), float(words[2])
            writer.write(b"%d\n" % sum(first <= at <= last for at in self.arrivals))
        await writer.drain()
        writer.close()


async def main(port: int, control: int) -> None:
    faulty = Faulty()
    await asyncio.start_server(faulty.serve, "127.0.0.1", port, backlog=1024)
    await asyncio.start_server(faulty.control, "127.0.0.1", control)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
