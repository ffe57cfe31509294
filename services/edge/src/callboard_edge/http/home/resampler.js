// Changes the rate of a sound that comes in parts, as one sound: no part's edge is heard.

const ZERO_CROSSINGS = 12;
const STEPS = 64; // Of the kernel's table between two zero crossings.

/** The half of a sinc under a Hann window, from its middle to its end. */
function kernel() {
  const table = new Float32Array(ZERO_CROSSINGS * STEPS + 2);
  for (let n = 0; n < ZERO_CROSSINGS * STEPS; n++) {
    const x = n / STEPS;
    const sinc = x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
    table[n] = sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / ZERO_CROSSINGS));
  }
  return table;
}

const TABLE = kernel();

/** A sound of one rate as one of another, without the pitches that the lower rate cannot have. */
export class Resampler {
  #step;
  #cutoff;
  #reach;
  #kept;
  #at; // Where in the kept samples the next one lies.

  constructor(fromHz, toHz) {
    this.#step = fromHz / toHz;
    this.#cutoff = Math.min(1, toHz / fromHz);
    this.#reach = this.#step === 1 ? 0 : Math.ceil(ZERO_CROSSINGS / this.#cutoff);
    this.reset();
  }

  /** Begins a new sound. */
  reset() {
    this.#kept = new Float32Array(this.#reach);
    this.#at = this.#reach;
  }

  /** What the next part becomes; the last few samples of a sound stay until more of it comes. */
  process(part) {
    if (this.#step === 1) return part;
    const all = new Float32Array(this.#kept.length + part.length);
    all.set(this.#kept);
    all.set(part, this.#kept.length);
    const end = all.length - this.#reach;
    const made = new Float32Array(Math.max(0, Math.ceil((end - this.#at) / this.#step)));
    for (let n = 0; n < made.length; n++) made[n] = this.#sample(all, this.#at + n * this.#step);
    this.#at += made.length * this.#step;
    const from = Math.max(0, Math.floor(this.#at) - this.#reach);
    this.#kept = all.slice(from);
    this.#at -= from;
    return made;
  }

  #sample(all, at) {
    const first = Math.ceil(at - this.#reach);
    const last = Math.min(all.length - 1, Math.floor(at + this.#reach));
    let sum = 0;
    for (let n = Math.max(0, first); n <= last; n++) {
      const place = Math.abs(n - at) * this.#cutoff * STEPS;
      const before = Math.floor(place);
      if (before >= ZERO_CROSSINGS * STEPS) continue;
      const share = place - before;
      sum += all[n] * (TABLE[before] * (1 - share) + TABLE[before + 1] * share);
    }
    return sum * this.#cutoff;
  }
}
