// Runs where the browser makes sound: the microphone as 16-bit samples of the session's rate, a twenty-fifth of a
// second at a time, with how loud each part is.

import { Resampler } from "./resampler.js";

const PARTS_A_SECOND = 25;

class Capture extends AudioWorkletProcessor {
  #rateHz;
  #resampler;
  #part;
  #filled = 0;

  constructor({ processorOptions }) {
    super();
    this.#rateHz = processorOptions.rateHz;
    this.#resampler = new Resampler(sampleRate, this.#rateHz);
    this.#begin();
  }

  process([input]) {
    if (!input.length) return true;
    for (const sample of this.#resampler.process(mono(input))) {
      this.#part[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.#filled === this.#part.length) this.#send();
    }
    return true;
  }

  #begin() {
    this.#part = new Int16Array(this.#rateHz / PARTS_A_SECOND);
    this.#filled = 0;
  }

  #send() {
    let power = 0;
    for (const sample of this.#part) power += (sample / 32768) ** 2;
    const pcm = this.#part.buffer;
    this.port.postMessage({ pcm, loudness: Math.sqrt(power / this.#part.length) }, [pcm]);
    this.#begin();
  }
}

function mono(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, n) => channels.reduce((sum, channel) => sum + channel[n], 0) / channels.length);
}

registerProcessor("capture", Capture);
