// What is on the page changes only where a figure did, so that focus and a reader's place stay.

const TABLES = {
  routes: {
    empty: "No route has been asked for.",
    key: (row) => row.name,
    columns: [
      ["Route", (row) => row.name],
      ["Cluster", (row) => row.cluster],
      ["Requests/s", (row) => row.rate.toFixed(1), "number"],
      ["4xx/s", (row) => row.errors.toFixed(1), "number", (row) => row.errors > 0 && "warn"],
      ["5xx/s", (row) => row.failures.toFixed(1), "number", (row) => row.failures > 0 && "bad"],
      ["p99 ≤", (row) => (row.p99_ms === null ? "–" : `${row.p99_ms} ms`), "number"],
      ["In flight", (row) => String(row.in_flight), "number"],
      ["Answers", (row) => row.total.toLocaleString("en"), "number"],
    ],
  },
  refusals: {
    empty: "Nothing was refused.",
    key: (row) => `${row.rule} ${row.reason} ${row.mode}`,
    columns: [
      ["Rule", (row) => row.rule],
      ["Reason", (row) => (row.mode === "shadow" ? `${row.reason} (shadow: let through)` : row.reason)],
      ["Now/s", (row) => row.rate.toFixed(1), "number", (row) => row.rate > 0 && row.mode === "enforce" && "bad"],
      ["In all", (row) => row.total.toLocaleString("en"), "number"],
      ["The last one", (row) => [row.detail, row.remedy].filter(Boolean).join(" ")],
      ["Action", (row) => row.decision && ["Explain", () => explain(row.decision), `the last refusal by ${row.rule}`]],
    ],
  },
  limits: {
    empty: "No limit has been asked.",
    key: (row) => row.rule,
    columns: [
      ["Rule", (row) => row.rule],
      ["Used", (row) => `${Math.round(row.used * 100)} %`, "number",
        (row) => (row.used >= 1 ? "bad" : row.used >= 0.8 && "warn")],
      ["Key", (row) => row.key],
      ["Admitted", (row) => row.admitted.toLocaleString("en"), "number"],
      ["Denied", (row) => row.denied.toLocaleString("en"), "number"],
      ["In shadow", (row) => row.shadowed.toLocaleString("en"), "number"],
    ],
  },
  clusters: {
    empty: "No cluster.",
    key: (row) => `${row.cluster} ${row.address}`,
    columns: [
      ["Cluster", (row) => row.cluster],
      ["Endpoint", (row) => row.address],
      ["Health", (row) => row.health, "", (row) => (row.health === "healthy" ? "good" : "bad")],
      ["Breaker", (row) => row.breaker, "", (row) => row.tone],
      ["In flight", (row) => String(row.active), "number"],
      ["Connections", (row) => String(row.connections), "number"],
      ["Waiting", (row) => String(row.waiting), "number", (row) => row.waiting > 0 && "warn"],
    ],
  },
  bans: {
    empty: "Nobody is banned.",
    key: (row) => row.subject,
    columns: [
      ["Whom", (row) => row.subject],
      ["Why", (row) => row.reason],
      ["Time left", (row) => span(row.seconds), "number"],
      ["Times", (row) => String(row.level), "number"],
      ["Action", (row) => ["Lift", () => lift(row.subject), `the ban of ${row.subject}`]],
    ],
  },
  sockets: {
    empty: "None is open.",
    key: (row) => row.request_id,
    columns: [
      ["Route", (row) => row.route],
      ["Request", (row) => row.request_id],
      ["Open for", (row) => span(row.seconds), "number"],
      ["Quiet for", (row) => span(row.quiet_seconds), "number"],
      ["Bytes in", (row) => row.bytes_in.toLocaleString("en"), "number"],
      ["Bytes out", (row) => row.bytes_out.toLocaleString("en"), "number"],
      ["Unsent", (row) => row.unsent.toLocaleString("en"), "number", (row) => row.unsent > 0 && "warn"],
    ],
  },
};

const at = (id) => document.getElementById(id);
let latest = null;
let held = false;

function make(name, text = "", kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function facts(list, pairs) {
  const wanted = pairs.filter(([, value]) => value !== "");
  while (list.children.length > wanted.length) list.lastChild.remove();
  wanted.forEach(([name, value], index) => {
    let row = list.children[index];
    if (!row) {
      row = make("div");
      row.append(make("dt"), make("dd"));
      list.append(row);
    }
    put(row.children[0], name);
    put(row.children[1], String(value));
  });
}

function table(name, rows) {
  const spec = TABLES[name];
  const place = document.querySelector(`[data-table="${name}"]`);
  const sought = at("find").value.trim().toLowerCase();
  const shown = rows.filter((row) => !sought || JSON.stringify(row).toLowerCase().includes(sought));
  if (!shown.length) {
    const words = rows.length ? "Nothing here has what you look for." : spec.empty;
    if (place.firstChild?.className !== "empty") place.replaceChildren(make("p", words, "empty"));
    put(place.firstChild, words);
    return;
  }
  let body = place.querySelector("tbody");
  if (!body) {
    const whole = make("table");
    const head = make("tr");
    for (const [title, , kind] of spec.columns) {
      const cell = make("th", title, kind);
      cell.scope = "col";
      head.append(cell);
    }
    const top = make("thead");
    top.append(head);
    body = make("tbody");
    whole.append(top, body);
    whole.setAttribute("aria-labelledby", `${name}-title`);
    place.replaceChildren(whole);
  }
  const known = new Map([...body.children].map((line) => [line.dataset.key, line]));
  shown.forEach((row, index) => {
    const key = spec.key(row);
    const line = known.get(key) ?? make("tr");
    known.delete(key);
    line.dataset.key = key;
    fill(line, spec.columns, row);
    if (body.children[index] !== line) body.insertBefore(line, body.children[index] ?? null);
  });
  for (const line of known.values()) line.remove();
}

function fill(line, columns, row) {
  columns.forEach(([title, value, kind = "", tone], index) => {
    let cell = line.children[index];
    if (!cell) {
      cell = make("td");
      cell.dataset.label = title;
      line.append(cell);
    }
    const wanted = [kind, (tone && tone(row)) || ""].filter(Boolean).join(" ");
    if (cell.className !== wanted) cell.className = wanted;
    const found = value(row);
    if (!Array.isArray(found)) {
      put(cell, found || "");
      return;
    }
    const [word, action, of] = found;
    let button = cell.querySelector("button");
    if (!button) {
      button = make("button", word);
      button.type = "button";
      cell.replaceChildren(button);
    }
    button.setAttribute("aria-label", `${word} ${of}`);
    button.onclick = action;
  });
}

function breaker(one) {
  if (!one) return ["none", ""];
  const forced = one.forced ? " by hand" : "";
  if (one.state === "closed") return [`closed${forced}`, "good"];
  if (one.state === "open") return [`open${forced}: probes in ${one.probes_in} s`, "bad"];
  return [`${one.state}${forced}`, "warn"];
}

function endpoints(clusters) {
  return clusters.flatMap((cluster) =>
    cluster.endpoints.map((one) => {
      const own = one.breaker ?? cluster.breaker;
      const [words, tone] = breaker(own);
      const health = !one.healthy ? "failing" : one.ejected_for > 0 ? `ejected for ${one.ejected_for} s` : "healthy";
      const fleet = cluster.fleet ? ` (fleet: ${cluster.fleet})` : "";
      return { ...one, cluster: cluster.name, breaker: words + fleet, tone, health };
    }),
  );
}

function show() {
  if (!latest || held) return;
  const now = latest;
  const state = at("state");
  put(state, now.state);
  state.className = `state ${{ ready: "good", degraded: "warn" }[now.state] ?? "bad"}`;
  const store = now.process.store;
  facts(at("process"), [
    ["CPU", `${Math.round(now.process.cpu * 100)} %`],
    ["Memory", `${Math.round(now.process.memory / 1048576)} MiB`],
    ["Connections", now.process.connections],
    ["Store", !store ? "" : store.available ? `${store.ms} ms, ${store.peers} sidecars` : "away"],
    ["Cache", !now.cache ? "" : now.cache.hits === null ? "empty" : `${Math.round(now.cache.hits * 100)} % hits`],
    ["Policy", now.policy.revision],
    ["Worker", now.worker ? `${now.worker[0]} of 0–${now.worker[1] - 1}, another by ?worker=N` : ""],
  ]);
  at("alert").hidden = !now.degraded;
  put(at("alert"), now.degraded);
  const policy = now.policy;
  at("policy-errors").hidden = policy.result === "applied";
  if (policy.result !== "applied") {
    const lines = policy.findings.length ? policy.findings : [`the last file was ${policy.result}`];
    at("findings").replaceChildren(...lines.map((line) => make("li", line)));
  }
  facts(at("policy-facts"), [
    ["File", policy.file],
    ["Revision", policy.revision],
    ["Since", policy.applied_at ? new Date(policy.applied_at * 1000).toLocaleString() : ""],
    ["Last file", policy.result],
    ...Object.entries(policy.reloads ?? {}).map(([word, count]) => [word, count]),
  ]);
  table("routes", now.routes);
  table("refusals", now.refusals.rows);
  table("limits", now.limits);
  table("clusters", endpoints(now.clusters));
  table("bans", now.bans.rows);
  table("sockets", now.sockets.rows);
  put(at("bans-of"), now.bans.of > now.bans.rows.length ? `${now.bans.rows.length} of ${now.bans.of}` : "");
  put(at("sockets-of"), `${now.sockets.of} open`);
}

function asked(path, options = {}) {
  const token = sessionStorage.getItem("token");
  return fetch(path, { cache: "no-store", ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function explain(id) {
  const answer = await asked(`/decisions/${id}`);
  const one = await answer.json();
  if (!answer.ok) {
    facts(at("decision-facts"), [["Not kept", one.error]]);
    at("decision-filters").replaceChildren();
    at("decision-limits").replaceChildren();
  } else {
    facts(at("decision-facts"), [
      ["Decision", one.decision],
      ["At", new Date(one.time * 1000).toLocaleString()],
      ["Request", `${one.method} ${one.path}`],
      ["Request id", one.request_id],
      ["Route", one.route ?? "none"],
      ["Rule", one.rule],
      ["Reason", `${one.status} ${one.reason}`],
      ["Detail", one.detail],
      ["What would help", one.remedy],
      ["Revision", one.revision],
    ]);
    at("decision-filters").replaceChildren(
      ...one.filters.map((step) => make("li", `${step.filter} (${step.rules.join(", ")}): ${step.verdict}`)),
    );
    const limits = one.limits.map((limit) =>
      make("li", `${limit.limit}: ${limit.admitted ? "admitted" : "denied"}, ${limit.remaining} of ${limit.amount} ` +
        `left, key ${limit.key}, decided by ${limit.source}`));
    at("decision-limits").replaceChildren(...(limits.length ? limits : [make("li", "none was asked")]));
  }
  at("decision").showModal();
}

async function lift(subject) {
  await asked(`/bans/lift?subject=${encodeURIComponent(subject)}`, { method: "POST" });
}

async function reload() {
  put(at("reload-result"), "reading");
  const answer = await asked("/reload", { method: "POST" });
  const told = await answer.json();
  put(at("reload-result"), told.error ?? `${told.result} (${told.revision})`);
}

function token() {
  return new Promise((given) => {
    const box = at("token");
    const give = () => {
      sessionStorage.setItem("token", at("token-value").value);
      box.close();
    };
    at("token-give").onclick = give;
    at("token-value").onkeydown = (event) => event.key === "Enter" && give();
    box.onclose = given;
    box.showModal();
  });
}

async function follow() {
  const answer = await asked("/ui/events" + location.search);
  if (answer.status === 401) {
    await token();
    return;
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the sidecar ended the stream");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    if (parts.length) {
      latest = JSON.parse(parts.at(-1).slice("data: ".length));
      show();
    }
  }
}

async function forever() {
  for (;;) {
    try {
      await follow();
    } catch (error) {
      const state = at("state");
      put(state, "not connected");
      state.className = "state bad";
      at("alert").hidden = false;
      put(at("alert"), `No figures: ${error.message}. Trying again; what stands here is the last that came.`);
      await new Promise((then) => setTimeout(then, 1000));
    }
  }
}

at("find").addEventListener("input", show);
at("hold").addEventListener("click", () => {
  held = !held;
  at("hold").setAttribute("aria-pressed", String(held));
  show();
});
at("reload").addEventListener("click", reload);
at("decision-close").addEventListener("click", () => at("decision").close());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== at("find") && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    at("find").focus();
  }
});
forever();
