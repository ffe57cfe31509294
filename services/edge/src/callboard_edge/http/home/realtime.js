// A conversation by voice over the server's `/v1/realtime`, as OpenAI's realtime clients have it.

import { base, key, request } from "./api.js";
import { RATE_HZ } from "./devices.js";
import { decoded } from "./speech.js";

const OPEN_TIMEOUT_MS = 20000;
const MOST_UNSENT_BYTES = 512 * 1024; // About eight seconds of the microphone.
const UNHEARD = "undo"; // What is undone may be over already; that is no error to be shown.
const GOING_AWAY = 1001;
const SPOKEN_STYLE = "You speak with somebody by voice. Answer in a few short sentences, without markup or lists.";

/** One session. `on` is told what is heard and answered; what goes wrong comes to it in words. */
export class Conversation {
  #on;
  #wanted;
  #socket = null;
  #timer = 0;
  #ready = false;
  #answer = null; // What is being given, or was given last.
  #asked = null; // The item that is to be answered once it is known what was said.
  #turn = null; // The item that the server is about to answer by itself.
  #unwanted = false; // Whether that answer is not wanted any more.
  #lastError = "";
  #closed = false;

  constructor(wanted, on) {
    this.#wanted = wanted;
    this.#on = on;
  }

  /** Connects; `on.ready` or `on.closed` follows. */
  open() {
    const address = new URL(`v1/realtime?${new URLSearchParams({ model: this.#wanted.model })}`, base);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = ["realtime"];
    if (key()) protocols.push(`openai-insecure-api-key.${key()}`);
    try {
      this.#socket = new WebSocket(address, protocols);
    } catch {
      this.#end("This key has letters that no key of a server has.");
      return;
    }
    this.#timer = setTimeout(() => this.#end("The server did not answer in time."), OPEN_TIMEOUT_MS);
    this.#socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.#socket.onclose = ({ code }) => this.#lost(code);
  }

  /** Sends what the microphone hears. */
  hear(pcm) {
    this.#send({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...new Uint8Array(pcm))) });
    if (this.#socket.bufferedAmount > MOST_UNSENT_BYTES) this.#end("The connection is too slow, or was lost.");
  }

  /** Has what was heard since the last time written down and answered. */
  ask() {
    this.#asked = "next";
    this.#send({ type: "input_audio_buffer.commit" });
  }

  /** Forgets what was heard since the last time. */
  forget() {
    this.#send({ type: "input_audio_buffer.clear" });
  }

  /** Has the server find the ends of turns, or leaves that to `ask`. */
  setHandsFree(handsFree) {
    this.#wanted.handsFree = handsFree;
    if (!this.#ready) return;
    const input = { turn_detection: handsFree ? { type: "server_vad" } : null };
    this.#send({ type: "session.update", session: { type: "realtime", audio: { input } } });
    if (!handsFree) this.forget();
  }

  /** Ends the answer, of whose item so much was heard; `byServer` where the server has stopped to write it already. */
  interrupt(item, heardMs, byServer = false) {
    const answer = this.#answer;
    this.#asked = null;
    this.#unwanted = Boolean(this.#turn) && !byServer;
    if (!answer || answer.stopped || (answer.played && !answer.open)) return;
    answer.stopped = true;
    if (answer.open && !byServer) this.#undo({ type: "response.cancel", response_id: answer.id });
    if (!answer.item) return;
    const endMs = answer.item === item ? Math.min(heardMs, Math.floor(answer.soundMs)) : 0;
    const place = { item_id: answer.item, content_index: 0 };
    this.#undo({ type: "conversation.item.truncate", ...place, audio_end_ms: endMs });
    this.#undo({ type: "conversation.item.retrieve", item_id: answer.item });
  }

  /** Ends the writing of the answer, and keeps what there is of it. */
  cut() {
    if (!this.#answer?.open) return;
    this.#undo({ type: "response.cancel", response_id: this.#answer.id });
    this.#answer.stopped = true;
  }

  /** Notes that an answer was played to its end. */
  played(item) {
    if (this.#answer?.item === item) this.#answer.played = true;
  }

  /** Ends the session; `on` hears no more. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  #send(event) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  #undo(event) {
    this.#send({ ...event, event_id: UNHEARD });
  }

  #end(message) {
    if (this.#closed) return;
    this.close();
    this.#on.closed(message);
  }

  async #lost(code) {
    if (this.#closed) return;
    if (this.#ready) {
      const told = this.#lastError || (code === GOING_AWAY && "The server is about to stop.");
      this.#end(told || "The connection was lost.");
    } else this.#end(await this.#refusal());
  }

  /** Why there is no connection: browsers tell pages nothing of it, but the same path says it to a plain request. */
  async #refusal() {
    const { search } = new URL(this.#socket.url);
    try {
      await request(`v1/realtime${search}`, undefined, AbortSignal.timeout(OPEN_TIMEOUT_MS));
    } catch (error) {
      if (error.status && error.status !== 400) return error.message;
      if (!error.status) return "The server cannot be reached.";
    }
    return "No connection for sound opened. A proxy on the way may not pass WebSockets on, or not the page's Host.";
  }

  #begin() {
    const { handsFree, voice, model, turns } = this.#wanted;
    const format = { type: "audio/pcm", rate: RATE_HZ };
    const input = { format, transcription: {}, turn_detection: handsFree ? { type: "server_vad" } : null };
    const session = { type: "realtime", audio: { input, output: { format, ...(voice && { voice }) } } };
    if (!model.startsWith("character/")) session.instructions = SPOKEN_STYLE;
    this.#send({ type: "session.update", session });
    for (const { role, text } of turns) {
      const content = [{ type: role === "user" ? "input_text" : "output_text", text }];
      this.#send({ type: "conversation.item.create", item: { type: "message", role, content } });
    }
  }

  #take(event) {
    if (this.#closed) return;
    const on = this.#on;
    this.#lastError = "";
    switch (event.type) {
      case "session.created":
        return this.#begin();
      case "session.updated":
        if (this.#ready) return;
        this.#ready = true;
        clearTimeout(this.#timer);
        return on.ready();
      case "input_audio_buffer.speech_started":
        return on.hearing();
      case "input_audio_buffer.committed":
        if (this.#asked === "next") this.#asked = event.item_id;
        else [this.#turn, this.#unwanted] = [event.item_id, false];
        return on.said(event.item_id);
      case "conversation.item.input_audio_transcription.delta":
        return on.heard(event.item_id, event.delta);
      case "conversation.item.input_audio_transcription.completed":
        return this.#heard(event.item_id, event.transcript.trim());
      case "conversation.item.input_audio_transcription.failed":
        this.#heard(event.item_id, "");
        return on.problem(event.error.message);
      case "conversation.item.retrieved":
        return on.kept(event.item.id, event.item.content?.[0]?.transcript || "");
      case "error":
        if (event.error.event_id === UNHEARD) return;
        if (!this.#ready) return this.#end(event.error.message);
        this.#lastError = event.error.message; // The reason, where the end of the session follows.
        return on.problem(event.error.message);
      default:
        if (event.type.startsWith("response.")) this.#takeOfAnswer(event);
    }
  }

  #heard(item, text) {
    const isAsked = this.#asked === item;
    if (isAsked) this.#asked = null;
    if (!text && this.#turn === item) this.#turn = null;
    this.#on.understood(item, text);
    if (isAsked && text) this.#send({ type: "response.create" });
  }

  #takeOfAnswer(event) {
    if (event.type === "response.created") {
      this.#answer = { id: event.response.id, item: null, soundMs: 0, open: true, stopped: false, played: false };
      this.#turn = null;
      if (!this.#unwanted) return this.#on.thinking();
      this.#unwanted = false;
      return this.cut();
    }
    const answer = this.#answer;
    if (answer?.id !== (event.response_id || event.response?.id)) return;
    if (event.type === "response.done") {
      answer.open = false;
      const { status, status_details: details } = event.response;
      if (!answer.stopped) this.#on.answered(answer.item, answer.soundMs > 0);
      if (status === "failed") this.#on.problem(details.error.message);
      return;
    }
    if (answer.stopped) return;
    switch (event.type) {
      case "response.output_item.added":
        answer.item = event.item.id;
        return;
      case "response.output_text.delta":
      case "response.output_audio_transcript.delta":
        return this.#on.written(answer.item, event.delta);
      case "response.output_audio.delta": {
        const { buffer } = decoded(event.delta);
        answer.soundMs += (buffer.byteLength * 500) / RATE_HZ;
        return this.#on.sound(answer.item, buffer);
      }
    }
  }
}
