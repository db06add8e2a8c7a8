"use strict";
const MAX_SHOWN = 200, AGAIN_FROM = 500, AGAIN_TO = 15000;
const at = (id) => document.getElementById(id);
let token = "", seq = "", socket = null, again = AGAIN_FROM, refs = 0;
const rooms = new Set();

function state(name, text) {
  at("state").dataset.state = name;
  at("state").textContent = text;
}

function show(event) {
  at("none").hidden = true;
  const row = document.createElement("li"), when = document.createElement("time");
  const kind = document.createElement("strong"), data = document.createElement("code");
  row.className = event.type.replace(/[^A-Za-z]/g, "-");
  row.dataset.type = event.type;
  when.textContent = (event.at ? new Date(event.at) : new Date()).toLocaleTimeString();
  kind.textContent = event.type;
  data.textContent = JSON.stringify(event.data);
  row.append(when, kind, data);
  at("events").prepend(row);
  while (at("events").children.length > MAX_SHOWN) at("events").lastChild.remove();
}

function say(type, data) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return state("failed", "Not connected: nothing was sent");
  socket.send(JSON.stringify({ type, data, ref: ++refs }));
}

function connect() {
  const asked = new URLSearchParams({ access_token: token });
  if (seq) asked.set("resume", seq);
  if (rooms.size) asked.set("rooms", [...rooms].join(","));
  state("opening", "Connecting …");
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/realtime?${asked}`);
  socket.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.seq) seq = event.seq;
    if (event.type === "connected") {
      again = AGAIN_FROM;
      seq = event.data.seq;
      const missed = event.data.resumed === false ? ", and something was missed" : event.data.resumed ? `, ${event.data.replayed} replayed` : "";
      state("open", `Connected as ${event.data.role}${missed}`);
    }
    if (event.type === "ack" && event.data.room) rooms.add(event.data.room);
    if (event.type !== "ack") show(event);
  };
  socket.onclose = (closed) => {
    if (closed.code === 4401) return state("failed", `Closed: ${closed.reason || "log in again"}`);
    state("failed", `Closed (${closed.code}${closed.reason ? ": " + closed.reason : ""}); connecting again`);
    setTimeout(connect, again * (0.5 + Math.random()));
    again = Math.min(2 * again, AGAIN_TO);
  };
}

function onSubmit(id, what) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    what(Object.fromEntries(new FormData(event.target)), event.target);
  });
}

onSubmit("log-in", async (given) => {
  state("opening", "Logging in …");
  try {
    const answer = await fetch("/api/auth/login", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
    });
    const told = await answer.json();
    if (!answer.ok) return state("failed", told.message || told.detail || `Refused (${answer.status})`);
    token = told.data.access_token;
  } catch (error) {
    return state("failed", `The server can't be reached: ${error.message}`);
  }
  at("log-in").hidden = true;
  at("doing").hidden = false;
  connect();
});
onSubmit("subscribe", (given) => say("subscribeToJob", given));
onSubmit("say", (given, form) => { say("sendMessage", { to: "broadcast", ...given }); form.reset(); });
onSubmit("emergency", (given, form) => { say("emergencyAlert", given); form.reset(); });
at("statistics").addEventListener("click", () => say("subscribeToAnalytics", {}));
at("leave").addEventListener("click", () => socket && socket.close(4000, "cut by hand"));
