// Runs where the browser makes sound: plays what waits without a gap, and tells how much of it was played.

import { Resampler } from "./resampler.js";

const PIECE_S = 0.01;
const LEAD_S = 0.12; // So much waits before a sound begins, or goes on after it ran dry, so that it does not stutter.
const REPORTS_A_SECOND = 20;
const TAIL_S = 0.02; // Silence that brings the end of a sound out of the resampler.

class Playback extends AudioWorkletProcessor {
  #rateHz;
  #resampler;
  #queue = []; // Each entry: the samples, how many of them are taken, and the answer that they belong to.
  #waiting = 0;
  #made = new Float32Array(0);
  #running = false;
  #whole = true;
  #item = null;
  #played = 0; // How many samples of the answer.
  #last = 0;
  #sinceReport = 0;

  constructor({ processorOptions }) {
    super();
    this.#rateHz = processorOptions.rateHz;
    this.#resampler = new Resampler(this.#rateHz, sampleRate);
    this.port.onmessage = ({ data }) => this[data.act](data);
  }

  append({ pcm, item }) {
    const samples = new Int16Array(pcm);
    this.#queue.push({ samples, taken: 0, item });
    this.#waiting += samples.length;
    this.#whole = false;
  }

  /** All of an answer is here; a short one begins now, however short. */
  end() {
    this.#whole = true;
    this.#queue.push({ samples: new Int16Array(this.#rateHz * TAIL_S), taken: 0, item: null });
    this.#waiting += this.#rateHz * TAIL_S;
  }

  stop() {
    this.#queue = [];
    this.#waiting = 0;
    this.#made = new Float32Array(0);
    this.#resampler.reset();
    this.#running = false;
    this.#whole = true;
    this.#item = null;
  }

  process(_, [[output]]) {
    if (!this.#running) this.#running = this.#waiting > 0 && (this.#whole || this.#waiting >= this.#rateHz * LEAD_S);
    if (this.#running) this.#play(output);
    else this.#fade(output);
    this.#last = output[output.length - 1];
    this.#sinceReport += output.length;
    if (!this.#item) return true;
    const done = !this.#running && this.#whole && !this.#queue.length;
    if (done || this.#sinceReport * REPORTS_A_SECOND >= sampleRate) this.#report(done);
    return true;
  }

  #play(output) {
    while (this.#made.length < output.length && this.#queue.length) this.#make();
    const count = Math.min(this.#made.length, output.length);
    output.set(this.#made.subarray(0, count));
    this.#made = this.#made.slice(count);
    if (count === output.length) return;
    this.#running = false;
    if (count) this.#last = output[count - 1];
    this.#fade(output.subarray(count));
  }

  #make() {
    const first = this.#queue[0];
    const end = Math.min(first.samples.length, first.taken + this.#rateHz * PIECE_S);
    const piece = Float32Array.from(first.samples.subarray(first.taken, end), (sample) => sample / 32768);
    if (first.item && first.item !== this.#item) [this.#item, this.#played] = [first.item, 0];
    if (first.item) this.#played += piece.length;
    this.#waiting -= piece.length;
    first.taken = end;
    if (end === first.samples.length) this.#queue.shift();
    const more = this.#resampler.process(piece);
    const all = new Float32Array(this.#made.length + more.length);
    all.set(this.#made);
    all.set(more, this.#made.length);
    this.#made = all;
  }

  /** Goes from the last sample to silence, since a step to it is heard as a click. */
  #fade(output) {
    for (let n = 0; n < output.length; n++) output[n] = (this.#last * (output.length - 1 - n)) / output.length;
  }

  #report(done) {
    const played_s = this.#played / this.#rateHz - this.#made.length / sampleRate;
    const playedMs = Math.max(0, Math.floor(played_s * 1000));
    this.port.postMessage({ item: this.#item, playedMs, done });
    this.#sinceReport = 0;
    if (done) this.#item = null;
  }
}

registerProcessor("playback", Playback);
