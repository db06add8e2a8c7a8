"""TLS, workers and the cache beside Envoy's and nginx's, by the same measure as `make bench`.

python -m tests.bench.edge [--only NAMES] [--connections 64,1000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.__main__ import (
    BIN,
    LOAD_CORE,
    PROXY_CORE,
    REDIS,
    ROOT,
    RUNTIME,
    SECRET,
    SHARED,
    UPSTREAM,
    Row,
    measure,
    running,
    store,
    table,
)  # fmt: skip
from tests.certificates import certificate

SAYS = 9002
"""An origin that says how long its answers hold."""
PAGE = """# TLS, workers and the cache

Made by `make bench-edge`: as [performance.md](performance.md), {seconds} s a line, every request with a token that
`proxy` verifies. `-tls` is the same with TLS 1.3 in front (one certificate, ECDSA P-256, connections kept); `-cache`
serves hits alone; the proxy's lines run `config/bench.yaml` without its two limits. `proxy-2-workers` has both cores,
which load and upstream use, too: its CPU time a request is what to look at.

"""


def given(folder: Path) -> dict[str, tuple[list[str], int, dict[str, str]]]:
    """Command, port and environment by name; each configuration is the plain bench's with what is measured added."""
    certificate(folder, "server", names=["localhost"])
    cert, key = folder / "server.pem", folder / "server.key"
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    text = (ROOT / "config" / "bench.yaml").read_text()
    plain = (SHARED / "nginx_proxy.conf").read_text()
    envoy = (SHARED / "envoy.yaml").read_text()
    (folder / "tls.yaml").write_text(
        text.replace(
            '${PROXY_PORT:-8080}"}', f'${{PROXY_PORT:-8080}}", tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}}}'
        )
    )
    (folder / "cache.yaml").write_text(text.replace("  browser:\n", "  browser:\n    cache: {}\n"))
    (folder / "workers.yaml").write_text(text.replace("version: 1\n", "version: 1\nworkers: 2\n"))
    (folder / "nginx_tls.conf").write_text(
        plain.replace("nginx_px", "nginx_tls").replace(
            "listen 127.0.0.1:9011 backlog=4096;",
            f"listen 127.0.0.1:9031 ssl backlog=4096; ssl_certificate {cert}; ssl_certificate_key {key};",
        )
    )
    (folder / "nginx_cache.conf").write_text(
        plain.replace("nginx_px", "nginx_cache").replace("9011", "9032")
        .replace("access_log off;", f"access_log off; proxy_cache_path {folder}/kept keys_zone=kept:10m;")
        .replace("proxy_http_version", "proxy_cache kept; proxy_cache_valid 200 1h; proxy_http_version")
    )  # fmt: skip
    socket = f"""
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {cert}}}, private_key: {{filename: {key}}}}}]
"""
    lines = envoy.replace("9013", "9033").replace("  clusters:\n", socket.rstrip("\n") + "\n  clusters:\n", 1)
    (folder / "envoy_tls.yaml").write_text(lines.replace("\n\n", "\n"))

    def ours(policy: Path, port: int, upstream: int = UPSTREAM) -> tuple[list[str], int, dict[str, str]]:
        environment = {
            "PROXY_PORT": str(port), "ADMIN_PORT": str(port + 900), "UPSTREAM": f"127.0.0.1:{upstream}",
            "REDIS_URL": f"redis://127.0.0.1:{REDIS}", "JWT_SECRET": SECRET, "RATE_LIMIT_ENABLED": "false",
        }  # fmt: skip
        return [str(RUNTIME), "-m", "proxy", "run", "--policy", str(policy)], port, environment

    one = ["--concurrency", "1", "-l", "error"]
    shutil.copy(SHARED / "nginx_proxy.conf", folder)
    return {
        "proxy-no-limits": ours(ROOT / "config" / "bench.yaml", 9020),
        "proxy-2-workers": ours(folder / "workers.yaml", 9021),
        "proxy-tls": ours(folder / "tls.yaml", 9022),
        "proxy-cache": ours(folder / "cache.yaml", 9023, SAYS),
        "nginx": ([nginx, "-c", str(folder / "nginx_proxy.conf"), "-p", str(folder)], 9011, {}),
        "nginx-tls": ([nginx, "-c", str(folder / "nginx_tls.conf"), "-p", str(folder)], 9031, {}),
        "nginx-cache": ([nginx, "-c", str(folder / "nginx_cache.conf"), "-p", str(folder)], 9032, {}),
        "envoy": ([str(BIN / "envoy"), "-c", str(SHARED / "envoy.yaml"), *one], 9013, {}),
        "envoy-tls": ([str(BIN / "envoy"), "-c", str(folder / "envoy_tls.yaml"), *one], 9033, {}),
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--only", default="")
    cli.add_argument("--connections", default="64,1000")
    cli.add_argument("--seconds", type=int, default=5)
    asked = cli.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(SHARED / "nginx_upstream.conf", folder)
        says = (SHARED / "nginx_upstream.conf").read_text().replace("nginx_up", "nginx_says").replace("9001", str(SAYS))
        (folder / "says.conf").write_text(
            says.replace("location / {", 'location / { add_header Cache-Control "public, max-age=3600";')
        )
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
        known = given(folder)
        wanted = [one for one in asked.only.split(",") if one] or list(known)
        upstream = running([nginx, "-c", str(folder / "nginx_upstream.conf"), "-p", name], UPSTREAM, {}, LOAD_CORE)
        telling = running([nginx, "-c", str(folder / "says.conf"), "-p", name], SAYS, {}, LOAD_CORE)
        with upstream, telling, store(folder):
            for one in wanted:
                command, port, environment = known[one]
                scheme = "https" if one.endswith("-tls") else "http"
                cores = "0,1" if one == "proxy-2-workers" else PROXY_CORE
                with running(command, port, environment, cores, scheme) as pid:
                    for connections in (int(count) for count in asked.connections.split(",")):
                        rows.append(measure(one, pid, port, connections, asked.seconds, scheme) | {"suite": "edge"})
                        sys.stdout.write(f"{rows[-1]}\n")
                        sys.stdout.flush()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench-edge.json").write_text(json.dumps(rows, indent=1))
    shown = table(rows)
    sys.stdout.write(shown + "\n")
    if not asked.only:
        (ROOT / "docs" / "edge-performance.md").write_text(PAGE.format(seconds=asked.seconds) + shown + "\n")


if __name__ == "__main__":
    main()
