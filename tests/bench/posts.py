"""A JSON POST of 1 KB through the whole chain beside Envoy's plain routing of the same: `make bench-posts`.

`proxy-posts-plain` is `config/bench.yaml`; `proxy-posts-validated` holds each body against its form, too, and
`proxy-posts` looks for attacks in it besides. A thousand bodies take turns, so that nothing is known from the last one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.bench.__main__ import (
    PROXY_CORE,
    ROOT,
    SHARED,
    Row,
    measure,
    rivals,
    running,
    table,
    upstream_and_store,
)

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, at = {}, 0
for i = 1, 1000 do
  local items = {}
  for j = 1, 8 do items[j] = string.format('{"sku":"A-%d","qty":%d,"note":"box %d of %d"}', i * 8 + j, j, j, i) end
  bodies[i] = string.format(
    '{"name":"Customer %d","email":"c%d@example.com","phone":"+1-555-%04d","notes":"%s","items":[%s]}',
    i, i, i, string.rep("Please call before 5 pm, gate code " .. i .. ". ", 12), table.concat(items, ","))
end
request = function()
  at = at % 1000 + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--connections", default="64,1000")
    cli.add_argument("--seconds", type=int, default=5)
    given = cli.parse_args()
    if not SHARED.exists():
        raise SystemExit("../shared/bench is not beside this clone: its nginx configuration is the upstream")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "post.lua"
        script.write_text(SCRIPT)
        text = (ROOT / "config" / "bench.yaml").read_text()
        known = rivals(folder)
        command, _, environment = known["proxy-no-limits"]
        chosen = {"envoy": known["envoy"]}
        for at, (kind, more) in enumerate(
            (
                ("proxy-posts-plain", ""),
                ("proxy-posts-validated", "    validation: {}\n"),
                ("proxy-posts", "    validation: {}\n    inspect: {mode: enforce}\n"),
            )
        ):
            policy = folder / f"{kind}.yaml"
            policy.write_text(text.replace("  api:\n", f"  api:\n{more}", 1))
            port = 9040 + at
            ports = {"PROXY_PORT": str(port), "ADMIN_PORT": str(port + 900)}
            chosen[kind] = ([*command[:-1], str(policy)], port, environment | ports)
        with upstream_and_store(folder):
            for one, (command, port, environment) in chosen.items():
                with running(command, port, environment, PROXY_CORE) as pid:
                    for connections in (int(count) for count in given.connections.split(",")):
                        rows.append(measure(one, pid, port, connections, given.seconds, script=script))
                        sys.stdout.write(f"{rows[-1]}\n")
                        sys.stdout.flush()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench-posts.json").write_text(json.dumps(rows, indent=1))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
