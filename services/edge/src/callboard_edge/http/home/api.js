// Asks the server, by addresses relative to the page, so that it works below any path and behind any proxy.

export const base = new URL(".", document.baseURI).href;

const KEY = "callboard.key";
const ALL = "callboard:key";

/** The key of this tab, or an empty string. */
export function key() {
  return sessionStorage.getItem(KEY) || "";
}

/** Sets the key, or forgets it, and tells the parts of the page. */
export function useKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  document.dispatchEvent(new Event(ALL));
}

/** Runs now, and again whenever another key is in use. */
export function withKey(show) {
  document.addEventListener(ALL, show);
  return show();
}

/** Sends a request, by POST where it has a body; throws an Error in the server's words, with its status, if refused. */
export async function request(path, body, signal) {
  const headers = { Accept: "application/json" };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const response = await fetch(base + path, { method, headers, signal, body: body && JSON.stringify(body) });
  if (response.ok) return response;
  const refused = await response.json().catch(() => null);
  const message = refused?.error?.message || `The server answered with ${response.status}.`;
  const said = response.status === 401 ? `${message} Give it a key below, at "Key and usage".` : message;
  throw Object.assign(new Error(said), { status: response.status });
}

/** The answer to a request, as JSON. */
export async function json(path, body) {
  return (await request(path, body)).json();
}

/** The server-sent events of a response. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (waiting + part.value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
  throw new Error("The connection broke before the end.");
}

/** Makes an element; whatever comes from the server is its text, never markup. */
export function element(tag, text, parent, attributes = {}) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent?.append(made);
  return made;
}

/** Shows what went wrong in a place for it, or that nothing did. */
export function problem(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}
