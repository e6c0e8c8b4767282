// The view of tasks: which there are, asking one, and what came.

import { post } from "./api.js";
import { sentence } from "./complaint.js";
import { at, button, composing, download, element, remember, remembered } from "./elements.js";
import { words } from "./language.js";
import { TASKS, drawFields, focusOn, pathOf, readFields } from "./task_fields.js";
import { drawResults } from "./task_results.js";

let known = [];
let task = remembered("task");
let drawn = "";
let last = null;
let controller = null;
let finished = () => {};

// Reranking is not listed as a task: it compares the vectors that every encoder gives.
const able = (name) => known.filter((model) => model.tasks?.includes(name === "rerank" ? "embed" : name));
const offered = () => Object.keys(TASKS).filter((name) => able(name).length);
const model = () => able(task).find((one) => one.id === at("task-model").value) ?? able(task)[0];

// Takes what /v1/models says; whether any model does a task.
export function listTasks(models) {
  known = models;
  if (!offered().length) return false;
  if (!offered().includes(task)) task = offered()[0];
  write();
  return true;
}

export function write() {
  const said = words();
  at("task-keys").textContent = said.keysTasks;
  if (!offered().length) return;
  at("task-choice").replaceChildren(...offered().map((name) => {
    const made = button("", said[name], () => choose(name));
    made.dataset.task = name;
    made.setAttribute("aria-pressed", String(name === task));
    return made;
  }));
  at("task-about").textContent = said.about[task];
  writeModels();
  writeFields();
  if (last) drawResults(at("results"), last);
}

export function status(text, bad = false) {
  at("task-status").textContent = text;
  at("task-status").classList.toggle("bad", bad);
}

function choose(name) {
  if (name === task || controller) return;
  task = name;
  last = null;
  remember("task", task);
  at("results").replaceChildren();
  status("");
  write();
  at("task-choice").querySelector("[aria-pressed=true]").focus();
}

function writeModels() {
  const before = model()?.id;
  at("task-model").replaceChildren(...able(task).map((one) => {
    const option = element("option", "", one.loaded ? one.id : `${one.id} (${words().asleep})`);
    option.value = one.id;
    return option;
  }));
  at("task-model").value = before;
}

// Drawn anew only where others are needed: what is being written keeps its focus.
function writeFields() {
  const languages = model().languages ?? [];
  const wanted = JSON.stringify([task, languages, document.documentElement.lang]);
  if (wanted === drawn) return;
  drawn = wanted;
  drawFields(task, languages);
}

function busy(on) {
  at("task-stop").hidden = !on;
  at("task-run").disabled = on;
  at("results").classList.toggle("stale", on);
  for (const each of at("task-choice").children) each.disabled = on;
}

export async function run() {
  if (controller || !known.length) return;
  const { body, empty, unread } = readFields(task);
  if (empty || unread) {
    status(empty ? words().emptyField(words()[empty]) : words().noNumber(words()[unread]), true);
    focusOn(empty ?? unread);
    return;
  }
  controller = new AbortController();
  const asked = { task, body: { model: model().id, ...body } };
  busy(true);
  status(model().loaded ? words().waiting : words().loading);
  const started = performance.now();
  try {
    last = { ...asked, answer: await post(pathOf(task), asked.body, controller.signal) };
    drawResults(at("results"), last);
    at("results").scrollIntoView({ block: "nearest" });
    const { prompt_tokens: read, completion_tokens: written = 0 } = last.answer.usage;
    status(words().took(read, written, ((performance.now() - started) / 1000).toFixed(1)));
  } catch (error) {
    last = null;
    at("results").replaceChildren();
    if (error.name === "AbortError") status(words().stopped);
    else status(sentence(error), true);
  } finally {
    controller = null;
    busy(false);
  }
  finished();
}

export function stop() {
  controller?.abort();
}

export function exportJson() {
  if (last) download("weft.json", "application/json", JSON.stringify(last, null, 1));
}

export function install(whenFinished) {
  finished = whenFinished;
  at("task-form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  at("task-form").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || composing(event)) return;
    if (event.ctrlKey || event.metaKey) { event.preventDefault(); run(); }
  });
  at("task-model").addEventListener("change", writeFields);
  at("task-stop").addEventListener("click", stop);
}
