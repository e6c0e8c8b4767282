// The page's state and what its buttons do.
//
// A conversation is a list of turns: {role: "user", content} and {role: "assistant", answers: {model: text}}.
// Several models answer side by side, each with its own side of the conversation.

import { ApiError, get, setKey, stream } from "./api.js";
import { Writer, installBubble } from "./tokens.js";
import { WORDS } from "./words.js";

const NUMBERS = [
  "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty",
  "presence_penalty", "seed",
];
const OFF = { top_k: 0, min_p: 0, repetition_penalty: 1, frequency_penalty: 0, presence_penalty: 0, top_p: 1 };
const ALTERNATIVES = 5;

const at = (id) => document.getElementById(id);
let language = remembered("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let chat = remembered("mode") === "chat";
let turns = [];
let lastPrompt = null;
let controller = null;
let known = [];

const words = () => WORDS[language];
const chosen = () => [...document.querySelectorAll("#models input:checked")].map((input) => input.value);

function remembered(key) {
  try { return localStorage.getItem(`weft-${key}`); } catch { return null; }
}

function remember(key, value) {
  try { localStorage.setItem(`weft-${key}`, value); } catch { /* private windows may forbid it */ }
}

function element(kind, className, text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

function write() {
  const said = words();
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.body.classList.toggle("chat", chat);
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = said[each.dataset.text];
  for (const each of document.querySelectorAll("[data-hint]")) each.placeholder = said[each.dataset.hint];
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", said[each.dataset.label]);
  at("language").textContent = said.other;
  at("mode-completion").setAttribute("aria-pressed", String(!chat));
  at("mode-chat").setAttribute("aria-pressed", String(chat));
  const hint = chat ? said.inputChat : said.inputCompletion;
  at("input").placeholder = hint;
  at("input").setAttribute("aria-label", hint);
  at("transcript").dataset.empty = chat ? said.emptyChat : said.emptyCompletion;
  at("keys").textContent = chat ? said.keys : said.keysCompletion;
  for (const input of document.querySelectorAll("#models input")) {
    input.nextSibling.lastChild.textContent = input.dataset.loaded === "true" ? said.loaded : said.asleep;
  }
}

function status(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function busy(on) {
  at("stop").hidden = !on;
  at("again").hidden = on || !(chat ? turns.length : lastPrompt !== null);
  for (const id of ["send", "clear", "mode-completion", "mode-chat"]) at(id).disabled = on;
}

function settings() {
  const body = {};
  for (const name of NUMBERS) {
    const value = at(name).value;
    if (value !== "" && Number(value) !== OFF[name]) body[name] = Number(value);
  }
  if (at("stop_text").value) body.stop = at("stop_text").value;
  return body;
}

// What the stream of one model writes into its place; gives {text, tokens, seconds, ended}.
async function generate(path, body, place) {
  const writer = new Writer(place);
  const scroller = at("transcript");
  const told = { text: "", tokens: 0, seconds: 0, ended: "" };
  let first = 0;
  place.classList.add("writing");
  try {
    for await (const event of stream(path, body, controller.signal)) {
      if (event.usage) told.tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.text ?? choice.delta?.content ?? "";
      const records = choice.logprobs ? recordsOf(choice.logprobs) : null;
      if (choice.finish_reason) told.ended = choice.finish_reason;
      if (!piece && !records?.length) continue;
      first ||= performance.now();
      if (!event.usage) told.tokens += records?.length || 1;
      told.seconds = (performance.now() - first) / 1000;
      const follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      writer.add(piece, records);
      if (follow) scroller.scrollTop = scroller.scrollHeight;
    }
  } finally {
    writer.end();
    place.classList.remove("writing");
    told.text = writer.text;
    place.told = told;
  }
  return told;
}

// Completions give lists, chat gives records; both become records.
function recordsOf(logprobs) {
  if (logprobs.content) return logprobs.content;
  return logprobs.tokens.map((token, index) => ({
    token, bytes: bytesOf(token), logprob: logprobs.token_logprobs[index],
    top_logprobs: Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => ({ token: other, logprob })),
  }));
}

function bytesOf(token) {
  if (!token.startsWith("bytes:")) return [...new TextEncoder().encode(token)];
  return token.slice(6).split("\\x").slice(1).map((digits) => parseInt(digits, 16));
}

// Ask every chosen model; bodyOf(model) and placeOf(model) say what and where. Gives texts by model.
async function askAll(path, bodyOf, places) {
  controller = new AbortController();
  busy(true);
  status(words().waiting);
  const started = performance.now();
  const ticker = setInterval(() => status(speed(places)), 250);
  const results = await Promise.allSettled(
    Object.entries(places).map(([model, place]) => ask(path, bodyOf(model), place)));
  clearInterval(ticker);
  controller = null;
  busy(false);
  const failed = results.find((result) => result.status === "rejected")?.reason;
  if (failed?.name === "AbortError") status(`${words().stopped} · ${speed(places)}`);
  else if (failed) complain(failed);
  else status(`${speed(places)} · ${((performance.now() - started) / 1000).toFixed(1)} s${lengthNote(places)}`);
  refresh();
}

async function ask(path, body, place) {
  if (!at("probabilities").checked) return generate(path, body, place);
  const wanted = path.endsWith("chat/completions")
    ? { logprobs: true, top_logprobs: ALTERNATIVES } : { logprobs: ALTERNATIVES };
  return generate(path, { ...body, ...wanted }, place);
}

function speed(places) {
  const told = Object.values(places).map((place) => place.told ?? { tokens: place.childNodes.length, seconds: 0 });
  const tokens = told.reduce((sum, each) => sum + each.tokens, 0);
  const rate = told.reduce((sum, each) => sum + (each.tokens > 1 ? (each.tokens - 1) / Math.max(each.seconds, 1e-3) : 0), 0);
  return rate ? words().tokens(tokens, rate.toFixed(1)) : words().waiting;
}

function lengthNote(places) {
  return Object.values(places).some((place) => place.told?.ended === "length") ? ` · ${words().length}` : "";
}

function complain(error) {
  if (error instanceof ApiError && error.status === 401) at("key-dialog").showModal();
  status(error instanceof ApiError ? error.message : words().broken, true);
}

async function complete(prompt) {
  lastPrompt = prompt;
  const models = chosen();
  const places = {};
  at("transcript").replaceChildren(columns(models, places, (place) => {
    const text = element("div", "text");
    text.append(prompt, place);
    return text;
  }));
  await askAll("/v1/completions", (model) => ({ ...settings(), model, prompt }), places);
  if (models.length === 1) at("input").value = prompt + (places[models[0]].told?.text ?? "");
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

function draw() {
  const shown = turns.map((turn, index) => {
    const box = element("div", `turn ${turn.role}`);
    if (turn.role === "user") {
      box.append(element("div", "who", words().user), element("div", "said", turn.content));
      box.append(tools([["edit", () => edit(index, box)]], turn.content));
    } else {
      const models = Object.keys(turn.answers);
      const row = element("div", models.length > 1 ? "columns" : "");
      for (const model of models) {
        const column = element("div", "column");
        const said = turn.places?.[model] ?? element("div", "said", turn.answers[model]);
        said.className = "said";
        column.append(element("div", "who", model), said, tools([], turn.answers[model]));
        row.append(column);
      }
      box.append(row);
    }
    return box;
  });
  at("transcript").replaceChildren(...shown);
  at("transcript").scrollTop = at("transcript").scrollHeight;
}

function tools(buttons, text) {
  const bar = element("div", "tools");
  const copy = ["copy", async (event) => {
    await navigator.clipboard.writeText(text);
    event.target.textContent = words().copied;
  }];
  for (const [name, act] of [...buttons, copy]) {
    const button = element("button", "plain small", words()[name]);
    button.type = "button";
    button.addEventListener("click", act);
    bar.append(button);
  }
  return bar;
}

function edit(index, box) {
  if (controller) return;
  const area = element("textarea", "");
  area.value = turns[index].content;
  const save = () => { turns = turns.slice(0, index); converse(area.value); };
  const bar = element("div", "tools");
  for (const [name, act] of [["save", save], ["cancel", draw]]) {
    const button = element("button", name === "save" ? "small primary" : "small plain", words()[name]);
    button.type = "button";
    button.addEventListener("click", act);
    bar.append(button);
  }
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
    if (event.key === "Escape") { event.stopPropagation(); draw(); }
  });
  box.replaceChildren(area, bar);
  area.focus();
}

async function converse(text) {
  const models = chosen();
  turns.push({ role: "user", content: text });
  draw();
  const places = {};
  const box = element("div", "turn assistant");
  box.append(columns(models, places, (place) => { place.className = "said"; return place; }));
  at("transcript").append(box);
  box.scrollIntoView({ block: "end" });
  await askAll("/v1/chat/completions", (model) => ({ ...settings(), model, messages: messagesFor(model) }), places);
  const answers = Object.fromEntries(models.map((model) => [model, places[model].told?.text ?? ""]));
  if (Object.values(answers).some(Boolean)) {
    turns.push({ role: "assistant", answers, places });
  } else {
    turns.pop();
    if (!at("input").value) at("input").value = text;
  }
  draw();
  busy(false);
  at("input").focus();
}

function send() {
  const text = at("input").value;
  if (controller || !chosen().length || (chat && !text)) return;
  if (!chat) { complete(text); return; }
  at("input").value = "";
  converse(text);
}

function again() {
  if (controller) return;
  if (!chat) { if (lastPrompt !== null) complete(lastPrompt); return; }
  const place = turns.findLastIndex((turn) => turn.role === "user");
  if (place < 0) return;
  const text = turns[place].content;
  turns = turns.slice(0, place);
  converse(text);
}

function clear() {
  turns = [];
  lastPrompt = null;
  at("transcript").replaceChildren();
  status("");
  busy(false);
  at("input").focus();
}

function setMode(toChat) {
  if (chat === toChat || controller) return;
  chat = toChat;
  remember("mode", chat ? "chat" : "completion");
  clear();
  write();
}

function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function exportMarkdown() {
  const said = chat
    ? turns.map((turn) => turn.role === "user" ? `## ${words().user}\n\n${turn.content}\n`
      : Object.entries(turn.answers).map(([model, text]) => `## ${model}\n\n${text}\n`).join("\n")).join("\n")
    : at("transcript").innerText;
  download("weft.md", "text/markdown", said);
}

function exportJson() {
  const conversation = turns.map(({ places, ...turn }) => turn);
  const record = { models: chosen(), settings: settings(), system: at("system").value, conversation, text: chat ? null : at("transcript").innerText };
  download("weft.json", "application/json", JSON.stringify(record, null, 1));
}

function listModels() {
  const before = new Set(chosen().length ? chosen() : [known[0]?.id]);
  at("models").replaceChildren(at("models").firstElementChild, ...known.map((model) => {
    const label = element("label", "check");
    const input = element("input", "");
    input.type = "checkbox";
    input.value = model.id;
    input.checked = before.has(model.id);
    input.dataset.loaded = model.loaded;
    const name = element("span", "", model.id);
    name.append(" ", element("small", "", model.loaded ? words().loaded : words().asleep));
    label.append(input, name);
    return label;
  }));
  // What no chosen model could hold would only be refused.
  const shortest = Math.min(...known.map((model) => model.max_model_len ?? Infinity));
  if (Number(at("max_tokens").value) >= shortest) at("max_tokens").value = Math.max(1, Math.floor(shortest / 2));
  const able = known.some((model) => model.supported?.includes("logprobs"));
  at("probabilities").disabled = !able;
  at("probabilities").parentElement.title = able ? "" : words().noProbabilities;
}

async function refresh() {
  try {
    known = (await get("/v1/models")).data;
    listModels();
    await queue();
  } catch (error) {
    complain(error);
  }
}

async function queue() {
  if (document.hidden) return;
  try {
    const states = Object.values((await get("/status")).models);
    const sum = (name) => states.reduce((total, state) => total + (state[name] ?? 0), 0);
    at("queue").textContent = words().queue(sum("running"), sum("waiting"));
  } catch { at("queue").textContent = ""; }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("input").addEventListener("keydown", (event) => {
  // Enter that confirms a Chinese input method's choice must not send.
  if (event.isComposing) return;
  if (event.key === "Enter" && (chat ? !event.shiftKey : event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  if (event.key === "ArrowUp" && chat && !at("input").value) {
    const place = turns.findLastIndex((turn) => turn.role === "user");
    if (place >= 0) { event.preventDefault(); edit(place, at("transcript").children[place]); }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") controller?.abort();
  if (event.altKey && event.code === "KeyR") { event.preventDefault(); again(); }
});
at("stop").addEventListener("click", () => controller?.abort());
at("again").addEventListener("click", again);
at("clear").addEventListener("click", clear);
at("mode-completion").addEventListener("click", () => setMode(false));
at("mode-chat").addEventListener("click", () => setMode(true));
at("export-markdown").addEventListener("click", exportMarkdown);
at("export-json").addEventListener("click", exportJson);
at("key-dialog").addEventListener("close", () => { setKey(at("key").value.trim()); status(""); refresh(); });
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
  write();
  if (chat && !controller) draw();
});
if (matchMedia("(max-width: 720px)").matches) at("settings").open = false;
installBubble(at("bubble"), words);
write();
busy(false);
refresh();
setInterval(queue, 2000);
