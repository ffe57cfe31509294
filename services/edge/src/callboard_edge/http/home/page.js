// The page's other parts: addresses to paste, the key, and what it has used.

import { base, element, json, key, useKey, withKey } from "./api.js";
import "./offer.js";
import "./workers.js";

const entry = document.getElementById("key");
const copied = document.getElementById("copied");
const text = document.getElementById("usage-text");
const limits = document.getElementById("limits");
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function duration(seconds) {
  const [unit, name] = UNITS.find(([size]) => seconds >= size) || [1, "s"];
  return `${(seconds / unit).toFixed(seconds % unit ? 1 : 0)} ${name}`;
}

async function copy(field) {
  field.select();
  try {
    // Only pages from HTTPS or from the same machine may use the first way.
    if (navigator.clipboard) await navigator.clipboard.writeText(field.value);
    else document.execCommand("copy");
    copied.textContent = `${field.value} is copied.`;
  } catch {
    copied.textContent = "It is selected; copy it by hand.";
  }
}

function addresses() {
  for (const field of document.querySelectorAll("#addresses input")) {
    field.value = (base + field.dataset.path).replace(/\/$/, "");
    const label = `Copy the address: ${field.labels[0].textContent}`;
    const button = element("button", "Copy", field.parentNode, { type: "button", "aria-label": label });
    button.addEventListener("click", () => copy(field));
  }
}

async function usage() {
  limits.hidden = true;
  try {
    const used = await json("v1/usage");
    const who = key() ? "This key" : "Without a key, this address";
    text.textContent = `${who} has used ${used.tokens_last_day.toLocaleString()} tokens in the last 24 hours and `
      + `${used.tokens_this_month.toLocaleString()} this month. Tier: ${used.tier || "unknown"}.`;
    const body = limits.tBodies[0];
    body.replaceChildren();
    for (const one of used.limits) {
      const row = element("tr", "", body);
      element("th", one.limit.replace(".", ": ").replaceAll("_", " "), row, { scope: "row" });
      element("td", one.allowed.toLocaleString(), row);
      element("td", one.remaining.toLocaleString(), row);
      element("td", one.resets_in_s ? duration(one.resets_in_s) : "", row);
    }
    limits.hidden = !used.limits.length;
  } catch (error) {
    text.textContent = error.message;
  }
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(entry.value.trim());
});
document.getElementById("forget").addEventListener("click", () => {
  entry.value = "";
  useKey("");
});
document.addEventListener("callboard:used", usage);
entry.value = key();
addresses();
withKey(usage);
