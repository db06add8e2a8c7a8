"""`make load`: the real mix through sidecar and application, beside the report's figures, and where the CPU goes.

The sidecar's limits are off (all requests come from one address), everything else of its policy is on. k6, the database
and Redis run on the same two cores, so the figures are this machine's, not the product's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from stack import servers
from stack.process import ROOT, ServerProcess
from tests.bench.__main__ import accounting
from upstream_app.seed import PASSWORD

REPORT = {"mean_ms": 85.0, "p95_ms": 200.0, "p99_ms": 500.0, "errors": 0.0002, "rps": 2500.0}


async def main(rates: list[int], connections: int, seconds: int, *, edge: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = []
        folder = Path(name)
        redis, mongo, app, proxy, admin = (servers.free_port() for _ in range(5))
        uri, url = f"mongodb://127.0.0.1:{mongo}/simplepro", f"redis://127.0.0.1:{redis}"
        policy = ROOT / "config" / "simplepro.yaml"
        off = {"RATE_LIMIT_ENABLED": "false", "ACCESS_LOG": "false"}
        running = {
            "redis": ServerProcess(servers.valkey(redis, folder / "valkey")),
            "mongo": ServerProcess(servers.mongo(mongo, folder / "mongo")),
            "app": ServerProcess(
                servers.app(
                    app,
                    uri,
                    url,
                    {"LOG_LEVEL": "ERROR", "EDGE_PURGE_URL": f"http://127.0.0.1:{admin}" if edge else ""},
                )
            ),
            "proxy": ServerProcess(servers.proxy(policy, proxy, admin, f"127.0.0.1:{app}", url, off)),
        }
        try:
            for process in running.values():
                await process.start()
            environment = {**os.environ, "MONGODB_URI": uri, "REDIS_URL": url}
            seeding = await asyncio.create_subprocess_exec(
                str(servers.BIN / "simplepro-app"), "seed", env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            await seeding.wait()
            base = f"http://127.0.0.1:{proxy}"
            tokens, ids = await prepared(base)
            for rate in rates:
                before = await kept(admin)
                rows.append(await run(base, tokens, ids, rate, connections, seconds, running))
                rows[-1]["edge"] = {name: count - before.get(name, 0) for name, count in (await kept(admin)).items()}
                sys.stdout.write(f"{rows[-1]}\n")
                sys.stdout.flush()
        finally:
            for process in reversed(running.values()):
                await process.stop()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "load.json").write_text(json.dumps(rows, indent=1))
    sys.stdout.write(table(rows) + "\n")


async def kept(admin: int) -> dict[str, int]:
    """What came of requests at the sidecar's cache so far, over all routes that have one."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin}/cache") as answer:
        told = await answer.json()
    found: dict[str, int] = {}
    for route in told.get("routes", {}).values():
        for name, count in route["results"].items():
            found[name] = found.get(name, 0) + count
    return found


async def prepared(base: str) -> tuple[list[str], list[str]]:
    async with aiohttp.ClientSession() as session:
        tokens = []
        for _ in range(4):
            credentials = {"username": "manager", "password": PASSWORD}
            async with session.post(f"{base}/api/auth/login", json=credentials) as answer:
                tokens.append((await answer.json())["data"]["access_token"])
        headers = {"Authorization": f"Bearer {tokens[0]}"}
        async with session.get(f"{base}/api/customers?limit=100", headers=headers) as answer:
            ids = [one["id"] for one in (await answer.json())["customers"]]
    return tokens, ids


async def run(
    base: str, tokens: list[str], ids: list[str], rate: int, connections: int, seconds: int,
    running: dict[str, ServerProcess],
) -> dict[str, Any]:  # fmt: skip
    day = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    summary = ROOT / "build" / "k6.json"
    summary.parent.mkdir(exist_ok=True)
    environment = {
        **os.environ, "BASE": base, "TOKENS": json.dumps(tokens), "IDS": json.dumps(ids), "DAY": day,
        "RATE": str(rate), "SECONDS": str(seconds), "CONNECTIONS": str(connections), "K6_NO_USAGE_REPORT": "true",
    }  # fmt: skip
    before = {name: accounting(process.pid)[0] for name, process in running.items()}
    script = str(ROOT / "tests" / "load" / "mix.js")
    command = [str(servers.BIN / "k6"), "run", "--quiet", "--summary-export", str(summary), script]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()
    metrics = json.loads(summary.read_text())["metrics"]
    count, times = metrics["http_reqs"]["count"], metrics["http_req_duration"]
    used = {name: accounting(process.pid)[0] - before[name] for name, process in running.items()}
    good = metrics["checks"]
    return {
        "asked_rps": rate, "rps": round(metrics["http_reqs"]["rate"], 1),
        "mean_ms": round(times["avg"], 1), "p95_ms": round(times["p(95)"], 1), "p99_ms": round(times["p(99)"], 1),
        "errors": round(good["fails"] / max(1, good["passes"] + good["fails"]), 5),
        "not_sent": metrics.get("dropped_iterations", {}).get("count", 0),
        **{f"{name}_ms_cpu": round(seconds * 1000 / max(1, count), 3) for name, seconds in used.items()},
    }  # fmt: skip


def share(edge: dict[str, int]) -> str:
    """Of the cached routes' reads, those that the sidecar answered."""
    reads = sum(count for name, count in edge.items() if not name.startswith("bypass"))
    return f"{(reads - edge.get('miss', 0)) / reads:.0%} of {reads}" if reads else ""


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| asked rps | served rps | mean ms | p95 ms | p99 ms | errors "
        "| proxy CPU ms | app | database | Redis | edge |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| report | {REPORT['rps']:g} | {REPORT['mean_ms']:g} | {REPORT['p95_ms']:g} | {REPORT['p99_ms']:g} "
        f"| {REPORT['errors']:.2%} | | | | | |",
    ]
    lines += [
        f"| {row['asked_rps']} | {row['rps']} | {row['mean_ms']} | {row['p95_ms']} | {row['p99_ms']} "
        f"| {row['errors']:.2%} | {row['proxy_ms_cpu']} | {row['app_ms_cpu']} | {row['mongo_ms_cpu']} "
        f"| {row['redis_ms_cpu']} | {share(row['edge'])} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--rates", default="50,100,200,400")
    cli.add_argument("--connections", type=int, default=1000)
    cli.add_argument("--seconds", type=int, default=20)
    cli.add_argument("--no-edge", action="store_true", help="without the sidecar's cache")
    given = cli.parse_args()
    rates = [int(one) for one in given.rates.split(",")]
    asyncio.run(main(rates, given.connections, given.seconds, edge=not given.no_edge))
