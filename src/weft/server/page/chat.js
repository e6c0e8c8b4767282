// The chat and the continuation of texts.
//
// A conversation is a list of turns: {role: "user", content} and {role: "assistant", answers: {model: text}}.
// Several models answer side by side, each with its own side of the conversation.

import { stream } from "./api.js";
import { sentence } from "./complaint.js";
import { keep, kept } from "./conversation.js";
import { at, button, composing, copier, download, element } from "./elements.js";
import { words } from "./language.js";
import { chosen, settings, unread, writeModels } from "./settings.js";
import { Writer, recordsOf } from "./tokens.js";

const ALTERNATIVES = 5;
const LEAST_SECONDS = 0.25;

let chat = false;
let turns = [];
let lastPrompt = null;
// The transcript's content in the other mode.
let aside = [];
// The text areas of turns that are being edited, by the turns' places.
let editing = new Map();
// The continued text as it was put into the box: what somebody wrote there is left alone.
let filled = null;
let controller = null;
let finished = () => {};
// What was asked when the page was left.
let unanswered = "";

export const working = () => controller !== null;

export function write() {
  const said = words();
  document.body.classList.toggle("chat", chat);
  const hint = chat ? said.inputChat : said.inputCompletion;
  at("input").placeholder = hint;
  at("input").setAttribute("aria-label", hint);
  at("transcript").dataset.empty = chat ? said.emptyChat : said.emptyCompletion;
  at("keys").textContent = chat ? said.keys : said.keysCompletion;
  writeModels();
  if (chat && !working()) draw();
}

export function status(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function busy(on) {
  at("stop").hidden = !on;
  at("again").hidden = on || !(chat ? turns.length : lastPrompt !== null);
  for (const id of ["send", "clear"]) at(id).disabled = on;
  for (const mode of document.querySelectorAll("header .switch button")) mode.disabled = on;
}

// Whether the end of the transcript is in sight.
function endInSight() {
  const scroller = at("transcript");
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}

export function toEnd() {
  at("transcript").scrollTop = at("transcript").scrollHeight;
}

// Keeps the end of the transcript in sight where it is. Once a frame: measuring lays all of the text out anew.
let following = false;
function follow() {
  if (following) return;
  following = true;
  const near = endInSight();
  requestAnimationFrame(() => {
    following = false;
    if (near) toEnd();
  });
}

// What the stream of one model writes into its place, which has {text, tokens, timed, seconds, ended} as `told`
// from the start, for the speed while it is written: `timed` of its tokens came in the seconds behind the first ones.
async function generate(path, body, place) {
  const writer = new Writer(place);
  const told = { text: "", tokens: 0, timed: 0, seconds: 0, ended: "" };
  place.told = told;
  let first = null;
  place.classList.add("writing");
  try {
    for await (const event of stream(path, body, controller.signal)) {
      told.tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.text ?? choice.delta?.content ?? "";
      const records = choice.logprobs ? recordsOf(choice.logprobs) : null;
      if (choice.finish_reason) told.ended = choice.finish_reason;
      if (!piece && !records?.length) continue;
      first ??= { time: performance.now(), tokens: told.tokens };
      told.timed = told.tokens - first.tokens;
      told.seconds = (performance.now() - first.time) / 1000;
      follow();
      writer.add(piece, records);
    }
  } finally {
    writer.end();
    place.classList.remove("writing");
    told.text = writer.text;
  }
}

// Asks every model that has a place; bodyOf(model) says what.
async function askAll(path, bodyOf, places) {
  controller = new AbortController();
  busy(true);
  status(words().waiting);
  const started = performance.now();
  const ticker = setInterval(() => status(speed(places)), 250);
  const failures = new Map();
  await Promise.all(Object.entries(places).map(([model, place]) =>
    ask(path, bodyOf(model), place).catch((error) => failures.set(model, error))));
  clearInterval(ticker);
  controller = null;
  busy(false);
  const faults = [...failures].filter(([, error]) => error.name !== "AbortError");
  if (faults.length) status(sentences(faults, Object.keys(places).length > 1), true);
  else if (failures.size) status(`${words().stopped} · ${speed(places)}`);
  else status(`${speed(places)} · ${((performance.now() - started) / 1000).toFixed(1)} s${lengthNote(places)}`);
  finished();
}

// What went wrong with each model, by its name where several were asked.
function sentences(faults, several) {
  return faults.map(([model, error]) => `${several ? `${model}: ` : ""}${sentence(error)}`).join(" ");
}

async function ask(path, body, place) {
  if (!at("probabilities").checked) return generate(path, body, place);
  const wanted = path.endsWith("chat/completions")
    ? { logprobs: true, top_logprobs: ALTERNATIVES } : { logprobs: ALTERNATIVES };
  return generate(path, { ...body, ...wanted }, place);
}

function speed(places) {
  const told = Object.values(places).map((place) => place.told);
  const tokens = told.reduce((sum, each) => sum + each.tokens, 0);
  // While it is written a moment is no measure: what waited for the page comes at once.
  const measured = told.filter((each) => !controller || each.seconds > LEAST_SECONDS);
  const rate = measured.reduce((sum, each) => sum + each.timed / Math.max(each.seconds, 1e-3), 0);
  return controller && !tokens ? words().waiting : words().tokens(tokens, rate && rate.toFixed(1));
}

function lengthNote(places) {
  return Object.values(places).some((place) => place.told.ended === "length") ? ` · ${words().length}` : "";
}

// Whether a model wrote something or came to its end: an answer may be empty.
const answered = (place) => Boolean(place.told.text || place.told.ended);

// Whether models may be asked now; says what is missing.
function ready() {
  if (controller) return false;
  const wrong = unread();
  if (!chosen().length) status(words().noModel, true);
  else if (wrong) status(words().noNumber(words()[wrong]), true);
  else return true;
  return false;
}

// Where no model answers, the continuation before stays.
async function complete(prompt) {
  if (!ready()) return;
  const before = { prompt: lastPrompt, shown: [...at("transcript").childNodes] };
  lastPrompt = prompt;
  const models = chosen();
  const places = {};
  at("transcript").replaceChildren(columns(models, places, (place) => {
    const text = element("div", "text");
    text.append(prompt, place);
    return text;
  }));
  toEnd();
  await askAll("/v1/completions", (model) => ({ ...settings(), model, prompt }), places);
  if (!Object.values(places).some(answered)) {
    lastPrompt = before.prompt;
    at("transcript").replaceChildren(...before.shown);
    busy(false);
  } else if (models.length === 1 && [prompt, filled].includes(at("input").value)) {
    at("input").value = prompt + places[models[0]].told.text;
    filled = at("input").value;
  }
}

// A column for each model; places[model] becomes where its text goes.
function columns(models, places, frame) {
  const row = element("div", models.length > 1 ? "columns" : "");
  for (const model of models) {
    const column = element("div", "column");
    column.append(element("div", "who", model));
    places[model] = element("span", "new");
    column.append(frame(places[model]));
    row.append(column);
  }
  return row;
}

function messagesFor(model) {
  const system = at("system").value;
  const said = turns.map((turn) => turn.role === "user"
    ? { role: "user", content: turn.content }
    : { role: "assistant", content: turn.answers[model] ?? Object.values(turn.answers)[0] });
  return system ? [{ role: "system", content: system }, ...said] : said;
}

// Whoever reads further up, or writes in an edit, goes on there.
function draw() {
  const focused = document.activeElement;
  const top = endInSight() ? null : at("transcript").scrollTop;
  const shown = turns.map((turn, index) => {
    const box = element("div", `turn ${turn.role}`);
    if (editing.has(index)) {
      box.append(editing.get(index), editTools(index));
    } else if (turn.role === "user") {
      box.append(element("div", "who", words().user), element("div", "said", turn.content));
      box.append(tools([["edit", () => edit(index)]], turn.content));
    } else {
      const models = Object.keys(turn.answers);
      const row = element("div", models.length > 1 ? "columns" : "");
      for (const model of models) {
        const column = element("div", "column");
        const said = turn.answers[model] ? turn.places[model] : element("div", "said", words().emptyAnswer);
        column.append(element("div", "who", model), said, tools([], turn.answers[model]));
        row.append(column);
      }
      box.append(row);
    }
    return box;
  });
  at("transcript").replaceChildren(...shown);
  if (at("transcript").contains(focused)) focused.focus({ preventScroll: true });
  if (top === null) toEnd();
  else at("transcript").scrollTop = top;
}

function tools(buttons, text) {
  return element("div", "tools", ...buttons.map(([name, act]) => button("plain small", words()[name], act)), copier(words(), text));
}

function editTools(index) {
  return element("div", "tools",
    button("small primary", words().save, () => save(index)), button("small plain", words().cancel, () => cancel(index)));
}

function edit(index) {
  if (controller) return;
  if (!editing.has(index)) editing.set(index, editor(index));
  draw();
  editing.get(index).focus();
}

function editor(index) {
  const area = element("textarea", "");
  area.value = turns[index].content;
  area.addEventListener("keydown", (event) => {
    if (composing(event) || controller) return;
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); save(index); }
    if (event.key === "Escape") { event.stopPropagation(); cancel(index); }
  });
  return area;
}

function cancel(index) {
  if (controller) return;
  editing.delete(index);
  draw();
}

async function save(index) {
  const text = editing.get(index).value;
  if (!text || !ready()) return;
  const before = editing;
  editing = new Map([...before].filter(([other]) => other < index));
  if (await converse(turns.slice(0, index), text)) return;
  editing = before;
  edit(index);
}

// Says `text` behind the turns `front`; false where no model answers: then the turns are what they were.
async function converse(front, text) {
  const models = chosen();
  const before = turns;
  turns = [...front, { role: "user", content: text }];
  // Where turns are to be replaced, a reload before the answer brings them back.
  if (front.length === before.length) keep(turns, at("system").value);
  draw();
  const places = {};
  const box = element("div", "turn assistant");
  box.append(columns(models, places, (place) => { place.className = "said"; return place; }));
  at("transcript").append(box);
  toEnd();
  await askAll("/v1/chat/completions", (model) => ({ ...settings(), model, messages: messagesFor(model) }), places);
  const able = models.filter((model) => answered(places[model]));
  if (able.length) {
    const answers = Object.fromEntries(able.map((model) => [model, places[model].told.text]));
    turns.push({ role: "assistant", answers, places });
  } else {
    turns = before;
  }
  keep(turns, at("system").value);
  draw();
  busy(false);
  // Who writes elsewhere meanwhile, in the system prompt say, goes on there.
  if (!document.activeElement.matches("input, textarea")) at("input").focus();
  return able.length > 0;
}

async function send() {
  const text = at("input").value;
  if ((chat && !text) || !ready()) return;
  if (!chat) { complete(text); return; }
  at("input").value = "";
  // What was written meanwhile stays behind it.
  if (!await converse(turns, text)) at("input").value = [text, at("input").value].filter(Boolean).join("\n");
}

export function again() {
  if (!chat) { if (lastPrompt !== null) complete(lastPrompt); return; }
  const place = turns.findLastIndex((turn) => turn.role === "user");
  if (place >= 0 && ready()) converse(turns.slice(0, place), turns[place].content);
}

function clear() {
  if (chat) {
    turns = [];
    editing.clear();
    keep(turns, at("system").value);
  } else {
    lastPrompt = null;
  }
  at("transcript").replaceChildren();
  status("");
  busy(false);
  at("input").focus();
}

export function setChat(on) {
  if (chat !== on) {
    chat = on;
    if (chat) {
      at("input").value ||= unanswered;
      unanswered = "";
    }
    const other = aside;
    aside = [...at("transcript").childNodes];
    at("transcript").replaceChildren(...other);
    status("");
    busy(false);
    at("input").focus();
  }
  write();
}

export function exportMarkdown() {
  const said = chat
    ? turns.map((turn) => turn.role === "user" ? `## ${words().user}\n\n${turn.content}\n`
      : Object.entries(turn.answers).map(([model, text]) => `## ${model}\n\n${text}\n`).join("\n")).join("\n")
    : at("transcript").innerText;
  download("weft.md", "text/markdown", said);
}

export function exportJson() {
  const conversation = chat ? turns.map(({ places, ...turn }) => turn) : [];
  const record = { models: chosen(), settings: settings(), system: at("system").value, conversation, text: chat ? null : at("transcript").innerText };
  download("weft.json", "application/json", JSON.stringify(record, null, 1));
}

// Answers come back as text, without the probabilities of their tokens.
function bringBack() {
  const before = kept();
  const places = (answers) => Object.fromEntries(
    Object.entries(answers).map(([model, text]) => [model, element("span", "said", text)]));
  turns = before.turns.map((turn) => turn.role === "user" ? turn : { ...turn, places: places(turn.answers) });
  at("system").value = before.system;
  unanswered = before.question;
}

export function install(whenFinished) {
  finished = whenFinished;
  at("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  at("input").addEventListener("keydown", (event) => {
    // Enter that confirms a Chinese input method's choice must not send.
    if (composing(event)) return;
    if (event.key === "Enter" && (chat ? !event.shiftKey : event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
    if (event.key === "ArrowUp" && chat && !at("input").value) {
      const place = turns.findLastIndex((turn) => turn.role === "user");
      if (place >= 0) { event.preventDefault(); edit(place); }
    }
  });
  at("stop").addEventListener("click", stop);
  at("again").addEventListener("click", again);
  at("clear").addEventListener("click", clear);
  at("system").addEventListener("input", () => keep(turns, at("system").value));
  bringBack();
  busy(false);
}

export function stop() {
  controller?.abort();
}
