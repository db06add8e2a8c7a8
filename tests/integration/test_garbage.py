"""A request leaves nothing to the collector of cycles: its pauses are what a proxy's slowest answers are made of."""

from __future__ import annotations

import gc
from types import FunctionType

from stack.process import ServerProcess
from tests.conftest import Start
from tests.integration.conftest import until
from tests.wire import ScriptedUpstream, Wire

REQUEST = b"GET /api/customers/1 HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n\r\n"
LIMITS = "{a: {limit: 100000/1h, key: ip}, b: {limit: 100000/1h, key: [route], strategy: token-bucket}}"
POLICIES = '{security_headers: {preset: helmet}, cors: {origins: ["https://a.example"]}, bans: {}, request: {}}'


def ours(thing: object) -> bool:
    module = thing.__module__ if isinstance(thing, FunctionType) else type(thing).__module__
    return module.startswith(("proxy.", "breaker"))


async def test_requests_under_limits_leave_no_cycles(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    more = f'redis: {{url: "redis://127.0.0.1:{valkey[1]}", timeout: 500ms}}\n'
    served = await serve(upstream.port, more=more, limits=LIMITS, policies=POLICIES)
    limiting = served.proxy.limiting
    assert limiting
    await until(lambda: limiting.store.available)
    wire = await served.connect()

    async def ask(times: int) -> None:
        for _ in range(times):
            wire.send(REQUEST)
            assert (await wire.answer())[0] == 200

    assert isinstance(wire, Wire)
    await ask(50)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await ask(300)
        gc.collect()
        left = [type(one).__qualname__ for one in gc.garbage if ours(one)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert len(left) < 10, left[:20]
