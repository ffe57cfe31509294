// Talk: somebody speaks, by holding a button or hands-free, and is answered by voice.

import { problem, withKey } from "./api.js";
import { Devices, RATE_HZ, whyNone } from "./devices.js";
import { Conversation } from "./realtime.js";
import { silence } from "./speech.js";
import { TalkLog } from "./talk-log.js";

const part = (name) => document.getElementById(`talk-${name}`);
const models = part("model");
const voices = part("voice");
const mode = part("mode");
const start = part("start");
const hold = part("hold");
const mute = part("mute");
const stop = part("stop");
const level = part("level");
const log = new TalkLog(part("log"));
const STATES = {
  off: "Off.",
  connecting: "Connecting.",
  ready: "Ready. Hold the button, or the space bar on it, while you speak.",
  listening: "Listening.",
  muted: "The microphone is off.",
  hearing: "Hearing you.",
  thinking: "Thinking.",
  speaking: "Speaking.",
};
const TAIL_PARTS = 5; // What is still heard after the button was let go: a fifth of a second, for the last word.
const LEAST_PARTS = 12; // Who holds it for less than half a second has said nothing.
const MUTED_PARTS = 40; // Silence that is sent when the microphone is turned off, so that a turn ends.
const MOST_WAITING_MS = 600000;
const QUIETEST_DB = 60;
let talk = null;

/** One talk, from its start to its end. */
class Talk {
  conversation = null;
  devices = new Devices({
    heard: (pcm, loudness) => this.#heard(pcm, loudness),
    played: (item, ms, done) => this.#played(item, ms, done),
    lost: (message) => end(message),
  });
  ready = false;
  held = false;
  hearing = false;
  waiting = false;
  sounding = false;
  muted = false;
  #item = null;
  #receivedMs = 0;
  #playedMs = 0;
  #heldParts = 0;
  #tail = 0;
  #mutedParts = 0;

  async begin() {
    try {
      await this.devices.open();
    } catch (error) {
      if (talk === this) end(error.message);
      return;
    }
    if (talk === this) this.#connect();
  }

  end() {
    this.conversation?.close();
    this.devices.close();
  }

  /** Begins to hear somebody who holds the button. */
  hold() {
    if (!this.ready || this.held) return;
    problem(part("problem"), null);
    this.interrupt();
    if (!this.#tail) {
      this.conversation.forget();
      this.#heldParts = 0;
    }
    [this.held, this.#tail] = [true, 0];
    show();
  }

  /** Has what was said answered. */
  release() {
    if (!this.held) return;
    [this.held, this.#tail] = [false, TAIL_PARTS];
    this.waiting = this.#heldParts >= LEAST_PARTS;
    if (!this.waiting) problem(part("problem"), new Error("Hold the button for as long as you speak."));
    show();
  }

  turnMicrophone(off) {
    [this.muted, this.#mutedParts] = [off, 0];
    this.devices.mute(off);
    show();
  }

  interrupt(byServer = false) {
    this.devices.stop();
    this.conversation.interrupt(this.#item, this.#playedMs, byServer);
    this.waiting = this.sounding = false;
    show();
  }

  changeMode() {
    [this.held, this.#tail, this.hearing] = [false, 0, false];
    if (this.muted) this.turnMicrophone(false);
    this.conversation?.setHandsFree(isHandsFree());
    show();
  }

  #connect() {
    const wanted = { model: models.value, voice: voices.value, handsFree: isHandsFree(), turns: log.turns() };
    this.conversation = new Conversation(wanted, {
      ready: () => {
        this.#set({ ready: true });
        if (!isHandsFree() && document.activeElement === start) hold.focus();
      },
      closed: (message) => end(message, this.ready),
      problem: (message) => problem(part("problem"), new Error(message)),
      hearing: () => {
        this.interrupt(true);
        this.#set({ hearing: true });
      },
      said: (item) => {
        log.add(item, "user", "You");
        this.#set({ hearing: false, waiting: true });
      },
      heard: (item, delta) => log.write(item, delta),
      understood: (item, text) => {
        log.set(item, text);
        if (text) return;
        if (!isHandsFree()) problem(part("problem"), new Error("Nothing was understood."));
        this.#set({ waiting: false });
      },
      thinking: () => {
        problem(part("problem"), null);
        this.#set({ waiting: true });
      },
      written: (item, delta) => {
        log.add(item, "assistant", answerer());
        log.write(item, delta);
      },
      sound: (item, pcm) => this.#play(item, pcm),
      answered: (item, hasSound) => {
        if (hasSound) this.devices.end();
        this.#set({ waiting: false });
        document.dispatchEvent(new Event("callboard:used"));
      },
      kept: (item, text) => log.cut(item, text),
    });
    this.conversation.open();
  }

  #set(state) {
    Object.assign(this, state);
    show();
  }

  #play(item, pcm) {
    if (this.#item !== item) [this.#item, this.#receivedMs, this.#playedMs] = [item, 0, 0];
    this.#receivedMs += (pcm.byteLength * 500) / RATE_HZ;
    this.devices.play(item, pcm);
    if (this.#receivedMs - this.#playedMs > MOST_WAITING_MS) {
      this.conversation.cut();
      this.devices.end();
      problem(part("problem"), new Error("The answer is too long to be spoken here, and ends early."));
    }
    if (!this.sounding) this.#set({ sounding: true, waiting: false });
  }

  #played(item, ms, done) {
    if (item !== this.#item || !this.sounding) return;
    this.#playedMs = ms;
    log.tell(item, ms);
    if (!done) return;
    this.conversation.played(item);
    this.#set({ sounding: false });
  }

  #heard(pcm, loudness) {
    level.value = this.muted ? 0 : Math.max(0, 1 + (20 * Math.log10(loudness + 1e-6)) / QUIETEST_DB);
    if (!this.ready) return;
    if (isHandsFree()) {
      if (this.muted && this.#mutedParts++ >= MUTED_PARTS) return;
      this.conversation.hear(pcm);
    } else if (this.held || this.#tail) this.#heardHeld(pcm);
  }

  #heardHeld(pcm) {
    this.conversation.hear(pcm);
    if (this.held) this.#heldParts++;
    else if (!--this.#tail) {
      if (this.waiting) this.conversation.ask();
      else this.conversation.forget();
    }
  }
}

function isHandsFree() {
  return mode.value === "hands-free";
}

function answerer() {
  return models.selectedOptions[0]?.textContent || "The model";
}

function state() {
  if (!talk) return "off";
  if (!talk.ready) return "connecting";
  if (talk.held || talk.hearing) return "hearing";
  if (talk.sounding) return "speaking";
  if (talk.waiting) return "thinking";
  if (talk.muted) return "muted";
  return isHandsFree() ? "listening" : "ready";
}

function show() {
  const now = state();
  const place = part("state");
  if (place.dataset.state !== now) [place.dataset.state, place.textContent] = [now, STATES[now]];
  if (talk) start.textContent = "End";
  const live = Boolean(talk?.ready);
  hold.hidden = !live || isHandsFree();
  mute.hidden = !live || !isHandsFree();
  stop.hidden = !live;
  hold.setAttribute("aria-pressed", String(Boolean(talk?.held)));
  mute.setAttribute("aria-pressed", String(Boolean(talk?.muted)));
  level.parentNode.hidden = !talk;
}

function begin() {
  problem(part("problem"), null);
  silence();
  talk = new Talk();
  show();
  talk.begin();
}

/** Ends the talk; with a message where that is not what was asked for. */
function end(message = "", again = false) {
  if (!talk) return;
  const inside = [hold, mute, stop].includes(document.activeElement);
  talk.end();
  talk = null;
  level.value = 0;
  start.textContent = again ? "Reconnect" : "Start";
  if (message) problem(part("problem"), new Error(message));
  show();
  if (inside) start.focus();
}

/** Shows what can answer here, or why nobody can; `missing` names what the site lacks. */
export function offer(missing) {
  const why = missing || whyNone();
  part("missing").textContent = why;
  part("missing").hidden = !why;
  part("parts").hidden = Boolean(why);
  for (const [own, other] of [[models, "model"], [voices, "voice"]]) {
    const before = own.value;
    own.replaceChildren(...document.getElementById(other).cloneNode(true).children);
    if ([...own.options].some((one) => one.value === before)) own.value = before;
    else if (own === models && talk) end("Who answered is not on offer any more.");
  }
  document.getElementById("talk").hidden = false;
}

/** Has the next talk be with a model. */
export function answersAloud(model) {
  if (models.value === model) return;
  models.value = model;
  models.dispatchEvent(new Event("change"));
}

start.addEventListener("click", () => (talk ? end() : begin()));
stop.addEventListener("click", () => talk?.interrupt());
mute.addEventListener("click", () => talk?.turnMicrophone(!talk.muted));
mode.addEventListener("change", () => (talk ? talk.changeMode() : show()));
models.addEventListener("change", () => {
  end();
  start.textContent = "Start";
  log.clear();
});
voices.addEventListener("change", () => {
  if (talk) {
    end();
    begin(); // A session keeps the voice that was heard; what was said goes on in the next.
  }
});

hold.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  hold.setPointerCapture(event.pointerId);
  talk?.hold();
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture", "blur"])
  hold.addEventListener(name, () => talk?.release());
hold.addEventListener("contextmenu", (event) => event.preventDefault()); // A long press on a phone.
hold.addEventListener("keydown", (event) => {
  if (event.key !== " " && event.key !== "Enter") return;
  event.preventDefault();
  if (!event.repeat) talk?.hold();
});
hold.addEventListener("keyup", (event) => {
  if (event.key !== " " && event.key !== "Enter") return;
  event.preventDefault();
  talk?.release();
});
hold.addEventListener("click", (event) => {
  if (event.detail) return; // Of a pointer, which was taken above; what is left are screen readers, which cannot hold.
  if (talk?.held) talk.release();
  else talk?.hold();
});

addEventListener("pagehide", () => end());
addEventListener("offline", () => end("The connection was lost.", Boolean(talk?.ready)));
withKey(() => end());
show();
