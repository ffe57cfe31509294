// The microphone and the loudspeaker of a talk, as samples of the rate that the session has.

export const RATE_HZ = 24000;
const ASKED = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
const SOUND_TIMEOUT_MS = 15000;
const WORKLETS = ["./capture.worklet.js", "./playback.worklet.js"];
const REFUSALS = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it for this page, then start again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone cannot be read; another program may be using it.",
};

/** Why this page can have no microphone here at all, or nothing. */
export function whyNone() {
  if (!isSecureContext)
    return "Browsers let a page hear only over HTTPS, or on the server's own machine. Open this page there to talk.";
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode)
    return "This browser is too old to talk with.";
  return "";
}

/** Both devices; `on` is told of what is heard, of what was played, and of a microphone that is gone. */
export class Devices {
  #on;
  #context = new AudioContext({ latencyHint: "interactive" }); // Within the press of a button, or it stays silent.
  #stream = null;
  #playback = null;
  #timer = 0;
  #closed = false;

  constructor(on) {
    this.#on = on;
  }

  /** Opens them; throws an Error that says in words what is missing. */
  async open() {
    const context = this.#context;
    context.resume().catch(() => {}); // It is closed where the talk ends before.
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio: ASKED });
    } catch (error) {
      throw new Error(REFUSALS[error.name] || `The microphone cannot be used: ${error.message}`);
    }
    for (const name of WORKLETS) {
      if (!this.#closed) await context.audioWorklet.addModule(new URL(name, import.meta.url));
    }
    if (this.#closed) return this.#release();
    const processorOptions = { rateHz: RATE_HZ };
    const capture = new AudioWorkletNode(context, "capture", { numberOfInputs: 1, processorOptions });
    // Whether sound runs is told by sound alone: some browsers keep the promise to resume only where there is a device.
    const none = "No sound comes in here. Look after microphone and loudspeaker.";
    this.#timer = setTimeout(() => this.#on.lost(none), SOUND_TIMEOUT_MS);
    capture.port.onmessage = ({ data }) => {
      clearTimeout(this.#timer);
      this.#on.heard(data.pcm, data.loudness);
    };
    const source = context.createMediaStreamSource(this.#stream);
    source.connect(capture).connect(context.destination); // It gives silence there, but only what leads there runs.
    const only = { numberOfInputs: 0, outputChannelCount: [1] };
    this.#playback = new AudioWorkletNode(context, "playback", { ...only, processorOptions });
    this.#playback.port.onmessage = ({ data }) => this.#on.played(data.item, this.#arrivedMs(data.playedMs), data.done);
    this.#playback.connect(context.destination);
    for (const track of this.#stream.getTracks())
      track.addEventListener("ended", () => this.#closed || this.#on.lost("The microphone is gone."));
  }

  /** Adds 16-bit samples of an answer to what is to be played. */
  play(item, pcm) {
    this.#playback?.port.postMessage({ act: "append", item, pcm }, [pcm]);
  }

  /** Says that all of an answer is here. */
  end() {
    this.#playback?.port.postMessage({ act: "end" });
  }

  /** Stops what is played, and forgets what waits. */
  stop() {
    this.#playback?.port.postMessage({ act: "stop" });
  }

  /** Turns the microphone off or on; while it is off it gives silence. */
  mute(isMuted) {
    for (const track of this.#stream?.getTracks() || []) track.enabled = !isMuted;
  }

  /** Gives both back. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#release();
  }

  #release() {
    for (const track of this.#stream?.getTracks() || []) track.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }

  /** How much has reached the ear: what was played less what is still on its way to the loudspeaker. */
  #arrivedMs(playedMs) {
    return Math.max(0, Math.floor(playedMs - (this.#context.outputLatency || 0) * 1000));
  }
}
