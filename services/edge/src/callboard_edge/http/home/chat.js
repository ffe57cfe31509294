// The chat: text that comes as it is written, and its sound beside it.

import { element, events, problem, request } from "./api.js";
import { decoded, open, silence } from "./speech.js";

const log = document.getElementById("log");
const form = document.getElementById("send");
const message = document.getElementById("message");
const models = document.getElementById("model");
const voices = document.getElementById("voice");
const speak = document.getElementById("speak");
const failure = document.getElementById("chat-problem");
const NEAR_END_PX = 40;
let turns = [];
let running = null;

function line(who, text) {
  const made = element("p", "", log);
  element("b", who, made);
  const content = document.createTextNode(text);
  made.append(content);
  log.scrollTop = log.scrollHeight;
  return content;
}

function write(content, text) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  content.appendData(text);
  if (follows) log.scrollTop = log.scrollHeight;
}

function asked(speech) {
  const body = { model: models.value || undefined, messages: turns, stream: true };
  if (!speech) return body;
  const chosen = voices.selectedOptions[0];
  const audio = { format: speech.chatFormat, voice: chosen.value || undefined, model: chosen.dataset.model };
  return { ...body, modalities: ["text", "audio"], audio };
}

async function reply(signal, content) {
  const speech = speak.checked && !speak.disabled ? open(`${shownModel()} speaks`) : null;
  try {
    const response = await request("v1/chat/completions", asked(speech), signal);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices?.[0]?.delta || {};
      write(content, delta.content || delta.audio?.transcript || "");
      if (speech && delta.audio?.data) speech.append(decoded(delta.audio.data));
    }
  } finally {
    speech?.end();
  }
}

function shownModel() {
  return models.selectedOptions[0]?.textContent || "The model";
}

async function send() {
  const text = message.value.trim();
  if (!text || running) return;
  problem(failure, null);
  message.value = "";
  const mine = new AbortController();
  running = mine;
  const before = turns;
  turns = [...turns, { role: "user", content: text }];
  log.setAttribute("aria-busy", "true"); // A screen reader then reads the reply once, when it is whole.
  const question = line("You", text);
  const content = line(shownModel(), "");
  try {
    await reply(mine.signal, content);
  } catch (error) {
    if (!mine.signal.aborted) problem(failure, error);
  }
  if (running !== mine) return; // A new chat has begun.
  running = null;
  log.setAttribute("aria-busy", "false");
  if (content.data) turns = [...turns, { role: "assistant", content: content.data }];
  else {
    turns = before;
    message.value ||= text;
    question.parentNode.remove();
    content.parentNode.remove();
  }
  document.dispatchEvent(new Event("callboard:used"));
}

function stop() {
  running?.abort();
  silence();
}

/** Has the next message go to a model. */
export function talkTo(model) {
  models.value = model;
  message.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.getElementById("stop").addEventListener("click", stop);
document.getElementById("clear").addEventListener("click", () => {
  stop();
  running = null;
  turns = [];
  log.replaceChildren();
  log.setAttribute("aria-busy", "false");
  problem(failure, null);
  message.focus();
});
