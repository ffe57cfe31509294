// What was said in a talk, by both sides, and as much of it as is kept.

import { element } from "./api.js";

const MOST_LINES = 200;
const MOST_TURNS = 40; // What a new session is told of the talk before it.
const NEAR_END_PX = 40;

/** The lines of a talk, each by its item of the session. */
export class TalkLog {
  #place;
  #lines = new Map();

  constructor(place) {
    this.#place = place;
  }

  /** Begins a line, unless it is there. */
  add(item, role, who) {
    if (this.#lines.has(item)) return;
    const made = element("p", "", this.#place);
    element("b", who, made);
    const text = document.createTextNode("");
    made.append(text);
    this.#lines.set(item, { role, made, text });
    for (const [oldest, line] of this.#lines) {
      if (this.#lines.size <= MOST_LINES) break;
      line.made.remove();
      this.#lines.delete(oldest);
    }
    this.#place.scrollTop = this.#place.scrollHeight;
  }

  /** Adds to a line. */
  write(item, delta) {
    const follows = this.#place.scrollHeight - this.#place.scrollTop - this.#place.clientHeight < NEAR_END_PX;
    this.#lines.get(item)?.text.appendData(delta);
    if (follows) this.#place.scrollTop = this.#place.scrollHeight;
  }

  /** Gives a line its text; one without is taken away. */
  set(item, text) {
    const line = this.#lines.get(item);
    if (!line) return;
    line.text.data = text;
    if (text) return;
    line.made.remove();
    this.#lines.delete(item);
  }

  /** Leaves of an answer what was heard before it was interrupted. */
  cut(item, text) {
    const line = this.#lines.get(item);
    if (!line) return;
    line.text.data = text;
    if (!line.made.querySelector("i")) element("i", text ? " … (interrupted)" : "(interrupted)", line.made);
  }

  /** Notes how much of an answer was played. */
  tell(item, playedMs) {
    const line = this.#lines.get(item);
    if (line) line.made.dataset.playedMs = playedMs;
  }

  /** Forgets everything. */
  clear() {
    this.#lines.clear();
    this.#place.replaceChildren();
  }

  /** What was said last, for a session that goes on. */
  turns() {
    const known = [...this.#lines.values()].map(({ role, text }) => ({ role, text: text.data.trim() }));
    return known.filter(({ text }) => text).slice(-MOST_TURNS);
  }
}
