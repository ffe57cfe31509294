// Who writes here: workers and models for everybody, and with a key one's own workers and kudos.

import { base, element, key, problem, withKey } from "./api.js";

const PATH = "api/v2/";
const ANONYMOUS = "0000000000";
const INTERVAL_MS = 15000;
const MOST_SHOWN = 100;
const part = (name) => document.getElementById(name);
const section = part("workers");
let shown = 0;

/** Asks in the Horde's protocol, in which the key has a header of its own and errors are a message. */
async function horde(path, body) {
  const headers = { Accept: "application/json", apikey: key() || ANONYMOUS };
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "PUT" : "GET";
  const response = await fetch(base + PATH + path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.message || `The server answered with ${response.status}.`);
  return answer;
}

function number(value) {
  return Math.round(value).toLocaleString();
}

function plural(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

function state(worker) {
  if (!worker.online) return "away";
  if (worker.paused) return "paused by the site";
  return worker.maintenance_mode ? "paused" : "there";
}

function speed(text) {
  const figure = parseFloat(text);
  return figure > 0 ? `${figure} tokens/s` : "";
}

function fill(table, rows) {
  table.tBodies[0].replaceChildren();
  for (const [head, ...cells] of rows.slice(0, MOST_SHOWN)) {
    const row = element("tr", "", table.tBodies[0]);
    element("th", head, row, { scope: "row" });
    for (const cell of cells) {
      const place = element("td", cell instanceof Node ? "" : cell, row);
      if (cell instanceof Node) place.append(cell);
    }
  }
  table.hidden = !rows.length;
}

/** The button that takes a worker out of work, or back into it. */
function pauseButton(worker) {
  const text = worker.maintenance_mode ? "Resume" : "Pause";
  const button = element("button", text, null, { type: "button", "aria-label": `${text}: ${worker.name}` });
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await horde(`workers/${worker.id}`, { maintenance: !worker.maintenance_mode });
      await show();
      // The list was made anew, and a keyboard should stay where it was.
      part("own-workers").querySelector(`button[aria-label$=${CSS.escape(`: ${worker.name}`)}]`)?.focus();
    } catch (error) {
      problem(part("workers-problem"), error);
      button.disabled = false;
    }
  });
  return button;
}

async function showOwn(mine) {
  const text = part("own-text");
  const user = key() ? await horde("find_user").catch(() => null) : null;
  if (mine !== shown) return;
  if (!user) {
    text.textContent = "With a key at “Key and usage”, your own workers and kudos are here.";
    part("own-workers").hidden = true;
    return;
  }
  const found = await Promise.all(user.worker_ids.map((id) => horde(`workers/${id}`).catch(() => null)));
  if (mine !== shown) return;
  const own = found.filter(Boolean);
  const online = own.filter((worker) => worker.online).length;
  text.textContent = `${user.username} has ${plural(user.kudos, "kudos", "kudos")} and `
    + `${plural(own.length, "worker", "workers")}, of which ${online} ${online === 1 ? "is" : "are"} there.`;
  fill(part("own-workers"), own.map((worker) => [
    worker.name, state(worker), speed(worker.performance), number(worker.requests_fulfilled),
    number(worker.uncompleted_jobs), number(worker.kudos_rewards), pauseButton(worker),
  ]));
}

async function show() {
  shown += 1;
  const mine = shown;
  try {
    const [load, models, workers] = await Promise.all(
      ["status/performance", "status/models?type=text", "workers?type=text"].map((path) => horde(path)),
    );
    if (mine !== shown) return;
    part("load").textContent = `${plural(load.text_worker_count, "worker", "workers")} with room for `
      + `${plural(load.text_thread_count, "text", "texts")} at once. `
      + `${plural(load.queued_text_requests, "text waits", "texts wait")}; `
      + `${plural(load.past_minute_tokens, "token was", "tokens were")} written in the last minute.`;
    fill(part("live-models"), models.map((model) => [
      model.name, number(model.count), number(model.jobs), speed(model.performance),
    ]));
    fill(part("live-workers"), workers.map((worker) => [
      worker.name, state(worker), worker.models.join(", "), speed(worker.performance),
      number(worker.requests_fulfilled),
    ]));
    await showOwn(mine);
    if (mine === shown) problem(part("workers-problem"), null);
    section.hidden = false;
  } catch (error) {
    problem(part("workers-problem"), error);
  }
}

withKey(show);
setInterval(() => {
  // A list that is being used is left alone, and nobody asks for a page that nobody sees.
  if (!document.hidden && !part("own-workers").contains(document.activeElement)) show();
}, INTERVAL_MS);
