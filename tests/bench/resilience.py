"""`make bench-resilience`: the same faults behind this proxy and behind Envoy with outlier detection.

Both have one endpoint, two seconds for an answer, and five seconds open (ejected). 100 requests a second come evenly.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop

from stack import servers
from stack.process import ROOT, ServerProcess, Spec

RATE = 100
BEFORE, FAULT, AFTER = 2.0, 8.0, 9.0
OPEN_SECONDS = 5
FAULTS = ("killed", "frozen", "slow", "reset", "share")
SAID = {
    "killed": "killed (kill -9)", "frozen": "frozen (SIGSTOP)", "slow": "answers after 1.5 s",
    "reset": "resets every connection", "share": "500 to six of ten",
}  # fmt: skip
SAMPLE_SECONDS = 0.05
ATTEMPTS = {
    "proxy": (
        "/metrics",
        re.compile(r'^proxy_upstream_pool_total\{.*event="(?:connects|connect_failures|reused)"\} (\S+)', re.M),
    ),
    "envoy": (
        "/stats?filter=cluster.up",
        re.compile(r"^cluster\.up\.upstream_(?:cx_connect_fail|rq_total): (\d+)", re.M),
    ),
}
"""Where each tells how often it went to the upstream, connections that failed included: a try and its failure, or a new
connection and its request, may count as two."""
LOCAL = ("breaker-open", "no healthy upstream")
"""What says that an answer was the proxy's own, the endpoint being left alone."""

OURS = """version: 1
listener: {{address: "127.0.0.1:{port}"}}
admin: {{address: "127.0.0.1:{admin}"}}
access_log: {{enabled: false}}
clusters:
  app:
    endpoints: ["127.0.0.1:{upstream}"]
    breaker:
      consecutive: 5
      error_rate: {{above: 50%, of_at_least: 20, within: 5s}}
      slow_rate: {{longer_than: 1s, above: 50%, of_at_least: 20, within: 5s}}
      open_for: {{from: {open}s, to: 20s, jitter: 0%}}
routes:
  all: {{match: {{prefix: /}}, to: app, timeouts: {{per_try: 2s, request: 2s}}}}
"""
ENVOY = """admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: up, timeout: 2s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 1s
    common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
    outlier_detection:
      consecutive_5xx: 5
      interval: 0.5s
      base_ejection_time: {open}s
      max_ejection_percent: 100
      enforcing_consecutive_5xx: 100
      enforcing_consecutive_gateway_failure: 100
      consecutive_gateway_failure: 5
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""


@dataclass
class Answer:
    at: float
    seconds: float
    status: int
    local: bool


@dataclass
class Row:
    """Times in seconds; None where it never was so."""

    fault: str
    who: str
    opened: float | None
    reached: int | None
    closed: float | None
    errors: int
    waited: float


class Run:
    def __init__(self, fault: str, who: str, folder: Path) -> None:
        self.fault, self.who, self.folder = fault, who, folder
        self.port, self.upstream_port, self.control_port = (servers.free_port() for _ in range(3))
        self.answers: list[Answer] = []
        self.admin = servers.free_port()
        self.attempts: list[tuple[float, int]] = []
        """When, and how many there had been."""
        self.upstream = self._upstream()

    def _upstream(self) -> ServerProcess:
        command = [sys.executable, "-m", "tests.bench.faulty", str(self.upstream_port), str(self.control_port)]
        return ServerProcess(Spec("upstream", command, servers.listens(self.upstream_port)))

    def _proxy(self) -> ServerProcess:
        path = self.folder / f"{self.who}-{self.port}.yaml"
        shape = OURS if self.who == "proxy" else ENVOY
        path.write_text(shape.format(port=self.port, admin=self.admin, upstream=self.upstream_port, open=OPEN_SECONDS))
        if self.who == "proxy":
            return ServerProcess(servers.proxy(path, self.port, self.admin, "", ""))
        command = [str(servers.BIN / "envoy"), "-c", str(path), "--concurrency", "1", "-l", "error"]
        return ServerProcess(Spec("envoy", command, servers.listens(self.port)))

    async def tell(self, line: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.control_port)
        writer.write(f"{line}\n".encode())
        said = (await reader.readline()).decode().strip()
        writer.close()
        return said

    async def ask(self, session: aiohttp.ClientSession) -> None:
        began = time.time()
        status, body = 0, ""
        try:
            async with session.get(f"http://127.0.0.1:{self.port}/", timeout=aiohttp.ClientTimeout(5)) as answer:
                status, body = answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            status = 0
        self.answers.append(Answer(began, time.time() - began, status, any(word in body for word in LOCAL)))

    async def sample(self, session: aiohttp.ClientSession) -> None:
        path, pattern = ATTEMPTS[self.who]
        while True:
            async with session.get(f"http://127.0.0.1:{self.admin}{path}") as answer:
                text = await answer.text()
            self.attempts.append((time.time(), sum(int(float(one)) for one in pattern.findall(text))))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def load(self, session: aiohttp.ClientSession, seconds: float) -> None:
        began, sent = time.time(), 0
        tasks: set[asyncio.Task[None]] = set()
        while (now := time.time()) < began + seconds:
            while sent < (now - began) * RATE:
                sent += 1
                tasks.add(task := asyncio.create_task(self.ask(session)))
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)

    async def go(self) -> Row:
        await self.upstream.start()
        proxy = self._proxy()
        await proxy.start()
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                load = asyncio.create_task(self.load(session, BEFORE + FAULT + AFTER))
                sampling = asyncio.create_task(self.sample(session))
                await asyncio.sleep(BEFORE)
                began = time.time()
                await self.inject()
                await asyncio.sleep(FAULT)
                healed = time.time()
                await self.heal()
                await load
                sampling.cancel()
                await asyncio.gather(sampling, return_exceptions=True)
                return self.row(began, healed)
        finally:
            await proxy.stop()
            self.upstream.signal(signal.SIGCONT)
            await self.upstream.stop()

    async def inject(self) -> None:
        if self.fault == "killed":
            self.upstream.signal(signal.SIGKILL)
        elif self.fault == "frozen":
            self.upstream.signal(signal.SIGSTOP)
        else:
            await self.tell(f"mode {self.fault}")

    async def heal(self) -> None:
        if self.fault == "killed":
            self.upstream = self._upstream()
            await self.upstream.start()
        elif self.fault == "frozen":
            self.upstream.signal(signal.SIGCONT)
        else:
            await self.tell("mode good")

    def row(self, began: float, healed: float) -> Row:
        opened = min((one.at + one.seconds for one in self.answers if one.local), default=None)
        good = [one.at for one in self.answers if one.at > healed and one.status == 200]
        reached = None
        meanwhile = [count for at, count in self.attempts if opened and opened + 2 * SAMPLE_SECONDS < at < healed]
        if meanwhile:
            reached = meanwhile[-1] - meanwhile[0]
        errors = [one for one in self.answers if one.status != 200]
        waits = sorted(one.seconds for one in self.answers if began < one.at < healed)
        return Row(
            self.fault, self.who, opened - began if opened else None, reached,
            min(good) - healed if good else None, len(errors), waits[int(0.99 * (len(waits) - 1))],
        )  # fmt: skip


def table(rows: list[Row]) -> str:
    lines = [
        "| the upstream | behind | left alone after s | attempts at it meanwhile | served again after s "
        "| clients' errors of all | p99 wait in the fault, s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    whole = int(RATE * (BEFORE + FAULT + AFTER))

    def shown(value: float | int | None) -> str:
        return "never" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    for row in rows:
        reached = "–" if row.reached is None else str(row.reached)
        lines.append(
            f"| {SAID[row.fault]} | {row.who} | {shown(row.opened)} | {reached} | {shown(row.closed)} "
            f"| {row.errors} of {whole} | {row.waited:.2f} |"
        )
    return "\n".join(lines)


async def main() -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for fault in FAULTS:
            for who in ("proxy", "envoy"):
                rows.append(await Run(fault, who, Path(name)).go())
                sys.stdout.write(f"{rows[-1]}\n")
                sys.stdout.flush()
    page = ROOT / "docs" / "resilience.md"
    text = page.read_text()
    head, _, rest = text.partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    page.write_text(f"{head}<!-- table -->\n{table(rows)}\n<!-- end -->{tail}")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    uvloop.run(main())
