// Plays speech while it arrives: in the page's player where the browser can feed it MP3, else sample by sample.

import { request } from "./api.js";

const MP3 = "audio/mpeg";
const SAMPLE_RATE_HZ = 24000;
const LEAD_S = 0.15;
const player = document.getElementById("player");
const bar = document.getElementById("bar");
const heard = document.getElementById("heard");
const Source = window.MediaSource || window.ManagedMediaSource;
let current = null;

/** MP3 that goes into the player as it comes. */
class Mp3Stream {
  chatFormat = "mp3";
  speechFormat = "mp3";
  #waiting = [];
  #ended = false;
  #source = new Source();
  #buffer = null;

  constructor() {
    this.#source.addEventListener("sourceopen", () => {
      this.#buffer = this.#source.addSourceBuffer(MP3);
      this.#buffer.addEventListener("updateend", () => this.#feed());
      this.#feed();
    }, { once: true });
    // Some browsers open such a source only where no other device could take the sound over.
    player.disableRemotePlayback = true;
    player.hidden = false;
    player.src = URL.createObjectURL(this.#source);
    player.play().catch(() => {}); // Where the browser wants a press first, the player has a button.
  }

  append(bytes) {
    this.#waiting.push(bytes);
    this.#feed();
  }

  end() {
    this.#ended = true;
    this.#feed();
  }

  stop() {
    player.pause();
  }

  #feed() {
    if (!this.#buffer || this.#buffer.updating || this.#source.readyState !== "open") return;
    if (this.#waiting.length) this.#buffer.appendBuffer(this.#waiting.shift());
    else if (this.#ended) this.#source.endOfStream();
  }
}

/** Samples that are played one after the other. */
class PcmStream {
  chatFormat = "pcm16";
  speechFormat = "pcm";
  #context = new AudioContext();
  #until_s = 0;
  #odd = new Uint8Array(0);

  constructor() {
    player.hidden = true;
  }

  append(bytes) {
    const all = new Uint8Array(this.#odd.length + bytes.length);
    all.set(this.#odd);
    all.set(bytes, this.#odd.length);
    const count = all.length >> 1;
    this.#odd = all.slice(2 * count);
    if (!count || this.#context.state === "closed") return;
    const view = new DataView(all.buffer);
    const sound = this.#context.createBuffer(1, count, SAMPLE_RATE_HZ);
    sound.copyToChannel(Float32Array.from({ length: count }, (_, n) => view.getInt16(2 * n, true) / 32768), 0);
    const node = new AudioBufferSourceNode(this.#context, { buffer: sound });
    node.connect(this.#context.destination);
    const from_s = Math.max(this.#until_s, this.#context.currentTime + LEAD_S);
    node.start(from_s);
    this.#until_s = from_s + sound.duration;
  }

  end() {}

  stop() {
    if (this.#context.state !== "closed") this.#context.close();
  }
}

/** Begins to play something new, which the returned stream is fed with; what was playing stops. */
export function open(title) {
  silence();
  heard.textContent = title;
  bar.hidden = false;
  current = Source?.isTypeSupported(MP3) ? new Mp3Stream() : new PcmStream();
  return current;
}

/** Stops what is playing. */
export function silence() {
  current?.stop();
  current = null;
}

/** Speaks a text. */
export async function speak(title, text, voice, model) {
  const stream = open(title);
  try {
    const body = { input: text, voice, model, response_format: stream.speechFormat };
    const reader = (await request("v1/audio/speech", body)).body.getReader();
    for (let part = await reader.read(); !part.done && stream === current; part = await reader.read())
      stream.append(part.value);
    stream.end();
    if (stream !== current) reader.cancel();
  } catch (error) {
    heard.textContent = error.message;
  }
}

/** The bytes of a base64 text. */
export function decoded(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
