"""`make waf`: GoTestWAF's cases against config/waf.yaml at each paranoia level; writes docs/security-cases.md."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from aiohttp import web

from stack import servers
from stack.process import ROOT, ServerProcess, Spec

SHARED = ROOT.parent / "shared" / "conformance"
PAGE = ROOT / "docs" / "security-cases.md"
LEVELS = (1, 2, 3)
HEAD = """# Inspection against GoTestWAF

Made by `make waf`: every case of GoTestWAF's public set through `config/waf.yaml`, by paranoia level. An attack counts
as refused where the answer is 403; anything else (400 and 501 too) does not. Honest requests have to be answered.

"""


async def echo(request: web.Request) -> web.Response:
    """Whatever is sent; a body that can't be read is none."""
    return web.Response(text="ok")


async def measured(level: int, folder: Path) -> list[dict[str, Any]]:
    port, admin = servers.free_port(), servers.free_port()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    policy = folder / f"waf-{level}.yaml"
    text = (ROOT / "config" / "waf.yaml").read_text()
    policy.write_text(text.replace("level: 1 ", f"level: {level} "))
    upstream = {"PROXY_PORT": str(port), "ADMIN_PORT": str(admin), "UPSTREAM": f"127.0.0.1:{runner.addresses[0][1]}"}
    command = [str(servers.BIN / "simplepro-proxy"), "run", "--policy", str(policy), "--log-level", "ERROR"]
    proxy = ServerProcess(Spec("proxy", command, servers.serves(admin, "/readyz"), {**os.environ, **upstream}))
    await proxy.start()
    told = folder / f"{level}.json"
    try:
        script = [sys.executable, str(SHARED / "gotestwaf_runner.py"), "--url", f"http://127.0.0.1:{port}/"]
        script += ["--cases", str(SHARED / "gotestwaf"), "--json", str(told)]
        process = await asyncio.create_subprocess_exec(*script, stdout=subprocess.DEVNULL)
        async with asyncio.timeout(300):
            await process.wait()
    finally:
        await proxy.stop()
        await runner.cleanup()
    found: list[dict[str, Any]] = json.loads(told.read_text())
    return [one for one in found if one["verdict"] != "failed"]


def share(rows: list[dict[str, Any]], good: str) -> str:
    count = sum(one["verdict"] == good for one in rows)
    return f"{count} of {len(rows)} ({100 * count / len(rows):.1f} %)" if rows else "-"


def table(name: str, of: str, found: dict[int, list[dict[str, Any]]]) -> list[str]:
    groups: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for level, rows in found.items():
        for row in rows:
            if not row["benign"]:
                groups[str(row[of])][level].append(row)
    lines = [f"| {name} | " + " | ".join(f"level {level}" for level in found) + " |", "|---|" + "--:|" * len(found)]
    shares_of = [(key, [share(groups[key][level], "blocked") for level in found]) for key in sorted(groups)]
    return [*lines, *(f"| {key} | {' | '.join(shares)} |" for key, shares in shares_of), ""]


async def main() -> None:
    if not SHARED.exists():
        raise SystemExit("../shared/conformance is not beside this clone")
    with tempfile.TemporaryDirectory() as name:
        found = {level: await measured(level, Path(name)) for level in LEVELS}
    lines = ["| | " + " | ".join(f"level {level}" for level in found) + " |", "|---|" + "--:|" * len(found)]
    attacks = {level: [one for one in rows if not one["benign"]] for level, rows in found.items()}
    plain = {level: [one for one in rows if not one["enc"].startswith("Base64")] for level, rows in attacks.items()}
    honest = {level: [one for one in rows if one["benign"]] for level, rows in found.items()}
    for title, rows, good in (
        ("attacks refused", attacks, "blocked"),
        ("of those not in Base64", plain, "blocked"),
        ("honest requests passed", honest, "passed"),
    ):
        lines.append(f"| {title} | " + " | ".join(share(rows[level], good) for level in found) + " |")
    lines += ["", *table("case", "case", found), *table("place", "ph", found), *table("encoding", "enc", found)]
    PAGE.write_text(HEAD + "\n".join(lines).rstrip() + "\n")
    sys.stdout.write("\n".join(lines[:5]) + f"\nwritten to {PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    asyncio.run(main())
