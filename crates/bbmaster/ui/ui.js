// The master's web page: hosts, one host, live events. What hosts report is not trusted, so only text
// (textContent) is inserted into the page.
"use strict";

const $ = (selector, from = document) => from.querySelector(selector);
const state = { token: sessionStorage.getItem("token"), next: null, shown: null, lastEvent: null };

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = "Bearer " + state.token;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) {
    $("#login").hidden = true;
    return response;
  }
  if (response.status === 401) $("#login").hidden = false;
  let detail = response.status + " " + response.statusText;
  try {
    const problem = await response.json();
    detail = problem.title + (problem.detail ? ": " + problem.detail : "");
  } catch { /* no problem document: the status says it all */ }
  throw new Error(detail);
}

function complain(error) {
  const place = $("#problem");
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

const ago = (time) => {
  if (!time) return "never";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 120) return seconds + " s ago";
  if (seconds < 7200) return Math.round(seconds / 60) + " min ago";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h ago";
  return Math.round(seconds / 86400) + " days ago";
};

function hostRow(host) {
  const row = element("tr", null, host.responding || host.status === "missing" ? "" : "silent");
  row.dataset.id = host.host_id;
  row.tabIndex = 0;
  const name = element("td", host.hostname || host.host_id);
  if (host.hostname && host.hostname !== host.host_id) name.append(element("div", host.host_id, "small"));
  const status = element("td");
  status.append(element("span", stateWords(host), "state " + stateClass(host)));
  if (host.error) status.append(element("div", host.error, "why"));
  const apps = tags(Object.entries(host.apps).map(([app, version]) => app + " " + version));
  const labels = tags(Object.entries(host.labels).map(([label, value]) => value ? label + "=" + value : label));
  const seen = element("td", ago(host.last_seen));
  seen.title = host.last_seen || "";
  row.append(name, status, apps, labels, seen);
  if (host.host_id === state.shown) row.classList.add("shown");
  return row;
}

function tags(words) {
  const cell = element("td");
  cell.append(...words.map((word) => element("span", word, "tag")));
  return cell;
}

// A host that has reported but does not respond now: its last status may no longer be true.
const isSilent = (host) => !host.responding && host.status !== "missing";
const stateClass = (host) => isSilent(host) ? "silent" : host.status;
function stateWords(host) {
  if (host.status === "missing") return "never seen";
  const words = host.status + (host.status === "ok" && !host.satisfied ? ", not as desired" : "");
  return isSilent(host) ? "silent, was " + words : words;
}

// The number of hosts with each status, without the filters.
const STATES = ["ok", "converging", "errors", "missing"];
async function count() {
  const counts = await Promise.all(STATES.map(async (status) =>
    (await (await call("v1/hosts/?limit=1&status=" + status)).json()).total));
  const chosen = $("#filters").elements.status.value;
  $("#states").replaceChildren(...STATES.map((status, place) => {
    const button = element("button", null, status);
    button.append(element("b", counts[place]), " " + (status === "missing" ? "never seen" : status));
    button.type = "button";
    button.setAttribute("aria-pressed", chosen === status);
    button.addEventListener("click", () => {
      const select = $("#filters").elements.status;
      select.value = select.value === status ? "" : status;
      list();
    });
    return button;
  }));
}

function query(after) {
  const wanted = new URLSearchParams();
  for (const [key, value] of new FormData($("#filters"))) if (value) wanted.set(key, value);
  wanted.set("limit", "100");
  if (after) wanted.set("after", after);
  return wanted;
}

let listing = 0;
async function list(after) {
  const turn = ++listing;
  try {
    const page = await (await call("v1/hosts/?" + query(after))).json();
    // A later query has replaced this one: its answer is not shown.
    if (turn !== listing) return;
    const rows = page.hosts.map(hostRow);
    if (after) $("#hosts").append(...rows);
    else $("#hosts").replaceChildren(...rows);
    state.next = page.next || null;
    $("#more").hidden = !state.next;
    $("#count").textContent = page.total === 1 ? "1 host" : page.total + " hosts";
    $("#none").hidden = page.total !== 0;
    await count();
    complain(null);
  } catch (error) {
    complain(error);
  }
}

async function show(id) {
  try {
    const host = await (await call("v1/hosts/" + encodeURIComponent(id))).json();
    state.shown = id;
    const place = $("#detail");
    $("h2", place).textContent = (host.info.hostname || id) + " (" + id + ")";
    const line = $(".line", place);
    line.className = "line " + stateClass(host);
    line.textContent = [stateWords(host), host.detail, "generation " + host.generation,
      host.satisfied ? "as desired" : null, "seen " + ago(host.last_seen)].filter(Boolean).join(" · ");
    for (const row of document.querySelectorAll("#hosts tr")) row.classList.toggle("shown", row.dataset.id === id);
    $(".errors", place).replaceChildren(...host.errors.map((error) =>
      element("p", (error.app ? error.app + ": " : "") + error.message + " (" + error.phase + ", attempt "
        + error.attempt + (error.rolled_back ? ", rolled back" : "") + ")")));
    const desired = host.desired_apps || {};
    const names = [...new Set([...Object.keys(desired), ...Object.keys(host.apps)])].sort();
    $("tbody", place).replaceChildren(...names.map((name) => {
      const row = element("tr");
      const app = host.apps[name];
      const differs = host.desired_apps && (!app || !desired[name] || app.version !== desired[name].version);
      row.append(element("td", name), element("td", desired[name] ? desired[name].version : "none"),
        element("td", app ? app.package_version || app.version : "none", differs ? "differs" : ""),
        element("td", app ? (app.running ? "yes" : "no") : "-"), element("td", app ? app.health : "-"));
      return row;
    }));
    $("dl", place).replaceChildren(...Object.entries(host.info).flatMap(([fact, value]) =>
      [element("dt", fact), element("dd", typeof value === "string" ? value : JSON.stringify(value))]));
    place.hidden = false;
    complain(null);
  } catch (error) {
    complain(error);
  }
}

let refresh = null;
function refreshSoon() {
  if (refresh) return;
  refresh = setTimeout(() => {
    refresh = null;
    list();
    if (state.shown) show(state.shown);
  }, 1000);
}

function showEvent(event) {
  const item = element("li", null, event.data && event.data.to);
  const head = [new Date(event.at).toLocaleTimeString(), event.host_id,
    event.author ? "by " + event.author : null].filter(Boolean).join("  ");
  item.append(element("div", head, "small"), element("div", event.message));
  item.title = event.kind + " " + event.at;
  const events = $("#events");
  events.prepend(item);
  while (events.childElementCount > 200) events.lastElementChild.remove();
}

function live(is) {
  $("#live").className = is ? "on" : "off";
  $("#live").textContent = is ? "live" : "not live";
}

// fetch, because EventSource cannot send a token.
async function follow() {
  for (;;) {
    try {
      if (state.lastEvent === null) {
        const page = await (await call("v1/events?limit=50")).json();
        state.lastEvent = page.events.length ? page.events[0].id : 0;
        page.events.reverse().forEach(showEvent);
      }
      const response = await call("v1/events?after=" + state.lastEvent, { headers: { Accept: "text/event-stream" } });
      live(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").filter((line) => line.startsWith("data:"))
            .map((line) => line.slice(5).trimStart()).join("\n");
          if (!data) continue;
          const event = JSON.parse(data);
          state.lastEvent = event.id;
          showEvent(event);
          refreshSoon();
        }
      }
    } catch (error) {
      complain(error);
    }
    live(false);
    await new Promise((wake) => setTimeout(wake, 3000));
  }
}

async function whoAmI() {
  try {
    const me = await (await call("v1/whoami")).json();
    $("#who").textContent = me.name + " (" + me.role + ") · " + me.master_version;
  } catch { /* the list says it */ }
}

let typing = null;
$("#filters").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => list(), 250);
});
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#more").addEventListener("click", () => list(state.next));
$("#hosts").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) show(row.dataset.id);
});
$("#hosts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.dataset.id) show(event.target.dataset.id);
});
$("#close").addEventListener("click", () => {
  $("#detail").hidden = true;
  state.shown = null;
  for (const row of document.querySelectorAll("#hosts tr.shown")) row.classList.remove("shown");
});
$("#ping").addEventListener("click", async () => {
  try {
    await call("v1/hosts/" + encodeURIComponent(state.shown) + "/ping", { method: "POST" });
    show(state.shown);
  } catch (error) {
    complain(error);
  }
});
$("#login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = new FormData(event.target).get("token");
  sessionStorage.setItem("token", state.token);
  list();
  whoAmI();
});
list();
whoAmI();
follow();
setInterval(() => list(), 30000);
