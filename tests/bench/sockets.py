"""The WebSocket suite: CPU a message and round trips of this proxy beside Envoy's and nginx's blind tunnels.

Each socket asks by 100 bytes, and again once it is answered; what is counted is inside a window in which all are open.
CPU a message counts both ways: the question's forward and the answer's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.__main__ import (
    BIN,
    LOAD_CORE,
    PROXY_CORE,
    ROOT,
    RUNTIME,
    SHARED,
    Row,
    accounting,
    answered,
    running,
    table,
)

ECHO = 9002
NGINX, ENVOY, OURS = 9031, 9033, 9034
NGINX_CONF = """worker_processes 1; daemon off; pid ws.pid; error_log ws.err;
events { worker_connections 20000; }
http { access_log off;
 server { listen 127.0.0.1:9031 backlog=4096;
  location / { proxy_pass http://127.0.0.1:9002; proxy_http_version 1.1; proxy_read_timeout 600s;
   proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection; } } }
"""
POLICY = """version: 1
listener: {address: "127.0.0.1:9034", drain: 10s}
admin: {address: "127.0.0.1:9934"}
access_log: {enabled: false}
clusters:
  app: {endpoints: ["127.0.0.1:9002"], max_connections: 10000}
policies:
  heads:
    websocket:
      heartbeat: 30s
      messages:
        size: {max_size: 64KiB, max_frame: 64KiB, fragments: 16}
        steady: {rate: 100000000/60s, volume: 10000MiB/1s}
  content:
    websocket:
      messages:
        shape:
          json: {depth: 8, keys: 200}
          types: {allow: {"*": [message.send, message.read]}}
          schemas:
            message.send:
              required: [type, data]
              properties:
                data: {type: object, required: [content], properties: {content: {type: string, maxLength: 5000}}}
defaults: {use: [heads]}
routes:
  content: {match: {path: /content}, to: app, use: [heads, content]}
  everything: {match: {prefix: /}, to: app}
"""
PAGE = """# WebSockets: what a message costs

Made by `make bench-sockets`: one run, one core for the proxy, the other for load and echo, {seconds:g} s a line inside
a window in which all sockets are open; each asks by 100 bytes as soon as it was answered. CPU is user and system time
of the proxy, a message there and back. `proxy-heads` judges sizes, fragments, rates and volumes by frames' heads;
`proxy-content` reads every message of the client as JSON: depth, keys, type, JSON Schema. Envoy and nginx tunnel
without looking. Memory is what {idle} idle sockets add, each (both its connections). The bars: heads 0.9 × Envoy,
content 1.5 × Envoy, 20 KB a socket.

"""


def rivals(folder: Path) -> dict[str, tuple[list[str], int, str]]:
    """Command, port and path by name."""
    (folder / "nginx_ws.conf").write_text(NGINX_CONF)
    (folder / "sockets.yaml").write_text(POLICY)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    ours = [str(RUNTIME), "-m", "proxy", "run", "--policy", str(folder / "sockets.yaml")]
    found = {
        "proxy-heads": (ours, OURS, "/heads"),
        "proxy-content": (ours, OURS, "/content"),
        "nginx": ([nginx, "-c", str(folder / "nginx_ws.conf"), "-p", str(folder)], NGINX, "/"),
    }
    if SHARED.exists():
        envoy = [str(BIN / "envoy"), "-c", str(SHARED / "envoy_ws.yaml"), "--concurrency", "1", "-l", "error"]
        found["envoy"] = (envoy, ENVOY, "/")
    return found


@contextlib.contextmanager
def loading(
    port: int, path: str, sockets: int, warm: float, seconds: float, interval: float
) -> Iterator[subprocess.Popen[str]]:
    command = [str(BIN / "python"), "-m", "tests.bench.echo", "load", str(port), path, str(sockets)]
    command += [str(warm), str(seconds), str(interval)]
    process = subprocess.Popen(["taskset", "-c", LOAD_CORE, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def line(process: subprocess.Popen[str], name: str) -> str:
    if process.stdout is None or not (said := process.stdout.readline()):
        raise SystemExit(f"the load on {name} ended before its time")
    return said


def measure(name: str, pid: int, port: int, path: str, sockets: int, seconds: float) -> Row:
    with loading(port, path, sockets, 2, seconds, 0) as process:
        line(process, name)
        before, _ = accounting(pid)
        line(process, name)
        after, resident = accounting(pid)
        told = json.loads(line(process, name))
    if told["closed"]:
        raise SystemExit(f"{name} closed {told['closed']} sockets")
    return {
        "suite": "websocket",
        "name": name,
        "connections": sockets,
        "cpu_us": round((after - before) * 1e6 / told["messages"], 1),
        "rps": round(told["messages"] / seconds),
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "rss_mb": round(resident, 1),
    }


def memory(name: str, pid: int, port: int, path: str, sockets: int) -> float:
    """KB that an idle socket adds, with its warm-up asked once."""
    _, before = accounting(pid)
    with loading(port, path, sockets, 1, 2, 60) as process:
        line(process, name)
        _, after = accounting(pid)
    return round((after - before) * 1024 / sockets, 1)


def soak(sockets: int, seconds: float) -> None:
    """So many sockets, each with a message a second: none may close, p99 is told."""
    with tempfile.TemporaryDirectory() as name:
        command, port, path = rivals(Path(name))["proxy-content"]
        with (
            echo(),
            running(command, port, {}, PROXY_CORE) as pid,
            loading(port, path, sockets, 5, seconds, 1) as process,
        ):
            line(process, "proxy")
            before, _ = accounting(pid)
            line(process, "proxy")
            after, resident = accounting(pid)
            told = json.loads(line(process, "proxy"))
    cores = (after - before) / seconds
    sys.stdout.write(
        f"{sockets} sockets, {told['messages'] / seconds:.0f} messages/s for {seconds:.0f} s: p50 {told['p50_ms']} ms, "
        f"p99 {told['p99_ms']} ms, {cores:.2f} cores, {resident:.0f} MiB, {told['closed']} closed\n"
    )
    if told["closed"]:
        raise SystemExit(1)


def drain(sockets: int) -> None:
    """SIGTERM with so many open: how many closes came in each second of the drain's ten, and by which code."""
    with tempfile.TemporaryDirectory() as name:
        command, port, path = rivals(Path(name))["proxy-heads"]
        with echo(), running(command, port, {}, PROXY_CORE) as pid, loading(port, path, sockets, 1, 12, 600) as process:
            line(process, "proxy")
            os.kill(pid, signal.SIGTERM)
            line(process, "proxy")
            told = json.loads(line(process, "proxy"))
    sys.stdout.write(f"{sockets} sockets: closes by second of the drain {told['closes']}, codes {told['codes']}\n")


@contextlib.contextmanager
def echo() -> Iterator[None]:
    command = [str(BIN / "python"), "-m", "tests.bench.echo", "serve", str(ECHO)]
    with running(command, ECHO, {}, LOAD_CORE):
        yield


def suite(only: list[str], connections: list[int], seconds: float) -> tuple[list[Row], dict[str, float]]:
    rows: list[Row] = []
    kilobytes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        known = rivals(folder)
        chosen = [one for one in known if not only or one in only or (one.startswith("proxy-") and "proxy" in only)]
        with echo():
            for one in chosen:
                command, port, path = known[one]
                with running(command, port, {}, PROXY_CORE) as pid:
                    kilobytes[one] = memory(one, pid, port, path, max(connections))
                    for sockets in connections:
                        time.sleep(0.5)
                        rows.append(measure(one, pid, port, path, sockets, seconds))
                        sys.stdout.write(f"{rows[-1]}\n")
                        sys.stdout.flush()
    return rows, kilobytes


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--only", default="")
    cli.add_argument("--connections", default="100,1000")
    cli.add_argument("--seconds", type=float, default=10)
    cli.add_argument("--soak", type=int, default=0, help="so many sockets at a message a second")
    cli.add_argument("--drain", type=int, default=0, help="so many sockets, and a SIGTERM")
    given = cli.parse_args()
    if answered(ECHO):
        raise SystemExit(f"port {ECHO} is in use")
    if given.soak or given.drain:
        drain(given.drain) if given.drain else soak(given.soak, given.seconds)
        return
    connections = [int(one) for one in given.connections.split(",")]
    rows, kilobytes = suite([one for one in given.only.split(",") if one], connections, given.seconds)
    path = ROOT / "build" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    others = [row for row in (json.loads(path.read_text()) if path.exists() else []) if row["suite"] != "websocket"]
    path.write_text(json.dumps(others + rows, indent=1))
    shown = table(rows, "sockets", "messages/s", "KB a socket", lambda row: kilobytes.get(str(row["name"]), ""))
    sys.stdout.write(shown + "\n")
    if not given.only:
        page = PAGE.format(seconds=given.seconds, idle=max(connections)) + shown + "\n"
        (ROOT / "docs" / "websocket-performance.md").write_text(page)


if __name__ == "__main__":
    main()
