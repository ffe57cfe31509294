// What the server offers to this caller: models, voices and characters, each with a way to try it.

import { element, json, problem, withKey } from "./api.js";
import { talkTo } from "./chat.js";
import { speak } from "./speech.js";
import { answersAloud, offer } from "./talk.js";

const SHOWN_CHARACTERS = 300;
const MOST_DESCRIBED = 50;
const ABILITIES = {
  completion: "writes", tools: "calls tools", vision: "reads images", thinking: "thinks", embedding: "makes embeddings",
};
const SENTENCES = {
  en: "Places, please. The curtain rises.",
  es: "A sus puestos, por favor. Se levanta el telón.",
  fr: "En place, s'il vous plaît. Le rideau se lève.",
  hi: "कृपया अपनी जगह लें। परदा उठ रहा है।",
  it: "In scena, per favore. Si alza il sipario.",
  ja: "位置についてください。幕が上がります。",
  pt: "Aos seus lugares, por favor. A cortina sobe.",
  zh: "请各就各位。大幕拉开了。",
};
const part = (name) => document.getElementById(name);

function sentence(language) {
  return SENTENCES[(language || "en").split("-")[0]] || SENTENCES.en;
}

function languageName(tag) {
  if (!tag) return "Other";
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(tag);
  } catch {
    return tag;
  }
}

function button(text, label, parent, act) {
  const made = element("button", text, parent, { type: "button", "aria-label": label });
  made.addEventListener("click", act);
  return made;
}

function choose(model) {
  answersAloud(model);
  talkTo(model);
}

function shortened(text) {
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text;
}

function options(list, entries, label) {
  if (!entries.length) return;
  const group = element("optgroup", "", list, { label });
  for (const [value, text] of entries) element("option", text, group, { value });
}

/** A model with what it can do; where that is not told, it counts as one that writes. */
async function described(name) {
  try {
    const about = await json("api/show", { model: name });
    const context = Object.entries(about.model_info).find(([field]) => field.endsWith(".context_length"));
    return { name, can: about.capabilities, size: about.details.parameter_size, contextTokens: context?.[1] };
  } catch {
    return { name, can: ["completion"] };
  }
}

function showModels(models, speechNames, hearingNames) {
  const list = part("model-list");
  list.replaceChildren();
  for (const { name, can, size, contextTokens } of models) {
    const item = element("li", "", list);
    element("h3", name, item);
    const facts = [can.map((word) => ABILITIES[word] || word).join(", "), size && `${size} parameters`,
      contextTokens && `a context of ${contextTokens.toLocaleString()} tokens`];
    element("p", facts.filter(Boolean).join(" · "), item, { class: "note" });
    if (can.includes("completion")) button("Talk", `Talk to ${name}`, item, () => choose(name));
  }
  for (const [names, ability] of [[speechNames, "speaks"], [hearingNames, "hears"]])
    for (const name of names) {
      const item = element("li", "", list);
      element("h3", name, item);
      element("p", ability, item, { class: "note" });
    }
  if (!list.children.length) element("li", "None at the moment.", list);
}

function showCharacters(characters) {
  part("characters").hidden = !characters.length;
  const list = part("character-list");
  list.replaceChildren();
  for (const one of characters) {
    const item = element("li", "", list);
    element("h3", one.display_name, item);
    if (one.desc) element("p", shortened(one.desc), item);
    if (one.greeting) element("p", `“${shortened(one.greeting)}”`, item);
    const buttons = element("p", "", item, { class: "buttons" });
    const text = one.greeting || sentence("en");
    if (!part("voices").hidden)
      button("▶ Hear", `Hear ${one.display_name}`, buttons, () => speak(one.display_name, shortened(text), one.model));
    button("Talk", `Talk to ${one.display_name}`, buttons, () => choose(one.model));
  }
}

function showVoices(voices) {
  part("voices").hidden = !voices.length;
  const groups = new Map();
  for (const one of voices) {
    const language = languageName(one.language);
    groups.set(language, [...(groups.get(language) || []), one]);
  }
  const place = part("voice-list");
  place.replaceChildren();
  const chosen = part("voice");
  chosen.replaceChildren(chosen.options[0]);
  for (const [language, members] of groups) {
    const group = element("details", "", place);
    group.open = place.children.length === 1;
    element("summary", `${language} (${members.length})`, group);
    const list = element("ul", "", group, { class: "voices" });
    for (const one of members) {
      const model = one.models[0];
      button(`▶ ${one.name}`, `Hear ${one.name}`, element("li", "", list), () =>
        speak(one.name, sentence(one.language), one.id, model));
      element("option", `${one.name} (${language})`, chosen, { value: one.id, "data-model": model });
    }
  }
  const speaks = part("speak");
  if (speaks.disabled || !speaks.dataset.known) speaks.checked = voices.length > 0;
  speaks.disabled = chosen.disabled = !voices.length;
  speaks.dataset.known = "yes";
}

/** Why nobody can be talked with aloud, or nothing. */
function lacking({ answers, speaks, hears }) {
  const missing = [!hears && "a model that hears", !answers && "a model that writes", !speaks && "a voice"];
  const named = missing.filter(Boolean).join(" and ");
  return named && `You cannot talk here yet: this site lacks ${named}.`;
}

async function show() {
  problem(part("problem"), null);
  try {
    const [all, hearing, spoken, voices, known] = await Promise.all([
      json("v1/models"), json("v1/models?task=automatic-speech-recognition"), json("v1/audio/models"),
      json("v1/audio/voices"), json("v1/characters"),
    ]);
    const characters = known.characters;
    const speechNames = spoken.data.map((one) => one.id);
    const hearingNames = hearing.data.map((one) => one.id);
    const others = new Set([...speechNames, ...hearingNames, ...characters.map((one) => one.model)]);
    const names = all.data.map((one) => one.id).filter((name) => !others.has(name));
    const models = await Promise.all(names.slice(0, MOST_DESCRIBED).map(described));
    models.push(...names.slice(MOST_DESCRIBED).map((name) => ({ name, can: ["completion"] })));
    const list = part("model");
    const before = list.value;
    list.replaceChildren();
    options(list, characters.map((one) => [one.model, one.display_name]), "Characters");
    options(list, models.filter((one) => one.can.includes("completion")).map((one) => [one.name, one.name]), "Models");
    if ([...list.options].some((one) => one.value === before)) list.value = before;
    showVoices(voices.voices);
    showModels(models, speechNames, hearingNames);
    showCharacters(characters);
    offer(lacking({ answers: list.options.length, speaks: voices.voices.length, hears: hearingNames.length }));
    document.body.dataset.shown = "yes";
  } catch (error) {
    problem(part("problem"), error);
  }
}

withKey(show);
