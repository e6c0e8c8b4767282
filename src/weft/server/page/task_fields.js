// What each task asks for, and the body of its request.

import { countBefore } from "./codepoints.js";
import { at, button, element } from "./elements.js";
import { languageName, translate, words } from "./language.js";

export const TASKS = {
  translate: ["input", "target_language", "alternatives", "max_length", "glossary"],
  summarize: ["input", "max_length"],
  classify: ["input"],
  sentiment: ["input"],
  entities: ["input"],
  roles: ["input", "predicate"],
  answer: ["context", "question", "least_score"],
  embed: ["input"],
  rerank: ["query", "documents"],
};

export const pathOf = (task) => (task === "rerank" ? "/v1/rerank" : `/v1/tasks/${task}`);

const AREAS = { input: 6, context: 6, question: 2, documents: 6, glossary: 2 };
const BATCHES = { input: "oneTextALine", question: "oneQuestionALine" };
const NUMBERS = { alternatives: [1, 16, 1], max_length: [1, 512, 1], least_score: [0, 1, 0.05] };
const OPTIONAL = ["glossary", "alternatives", "max_length", "least_score", "target_language"];

// What was written, by field: it stays when another task is chosen.
const kept = {};

// Characters [start, end) of the text that were taken as the predicate; null where its word says which.
let place = null;

const idOf = (field) => `task-${field}`;
const linesOf = (text) => text.split("\n").filter((line) => line.trim());

export function drawFields(task, languages) {
  const places = TASKS[task].filter((field) => field !== "target_language" || languages.length).map((field) => {
    if (field in AREAS) return area(field);
    if (field === "target_language") return choice(field, languages);
    return field === "predicate" ? predicate() : line(field);
  });
  place = null;
  at("task-fields").replaceChildren(...places);
  translate(at("task-fields"));
}

// The body without its model; the name of a field that is empty and must not be, or of a number that cannot be read.
export function readFields(task) {
  const body = {};
  for (const field of TASKS[task]) {
    const control = at(idOf(field));
    if (!control) continue;
    if (control.validity.badInput) return { unread: field };
    const given = valueOf(field, control);
    if (given !== null) body[field] = given;
    else if (!OPTIONAL.includes(field)) return { empty: field };
  }
  return { body };
}

export const focusOn = (field) => at(idOf(field))?.focus();

function valueOf(field, control) {
  const value = control.value;
  if (!value.trim()) return null;
  if (field in NUMBERS) return Number(value);
  if (field === "documents") return linesOf(value);
  if (field === "glossary") return terms(value);
  if (field === "predicate") return place ?? value;
  return at(`${idOf(field)}-lines`)?.checked ? linesOf(value) : value;
}

// Lines of "term = its translation". What is no such line is the server's to refuse.
function terms(value) {
  return Object.fromEntries(linesOf(value).map((one) => {
    const [term, ...rest] = one.split("=");
    return [term.trim(), rest.join("=").trim()];
  }));
}

function named(field, control, ...more) {
  control.id = idOf(field);
  control.value = kept[field] ?? "";
  control.addEventListener("input", () => { kept[field] = control.value; });
  const label = element("label", "");
  label.htmlFor = control.id;
  label.dataset.text = field;
  return element("div", `field ${field}`, label, control, ...more);
}

function area(field) {
  const control = element("textarea", "");
  control.rows = AREAS[field];
  if (field === "glossary") control.dataset.hint = "glossaryHint";
  if (field === "documents") control.dataset.hint = "documentsHint";
  if (!BATCHES[field]) return named(field, control);
  const box = element("input", "");
  box.type = "checkbox";
  box.id = `${idOf(field)}-lines`;
  box.checked = kept[box.id] ?? false;
  box.addEventListener("change", () => { kept[box.id] = box.checked; });
  const said = element("span", "");
  said.dataset.text = BATCHES[field];
  return named(field, control, element("label", "check", box, said));
}

function line(field) {
  const control = element("input", "");
  if (field in NUMBERS) {
    control.type = "number";
    [control.min, control.max, control.step] = NUMBERS[field];
    control.dataset.hint = "usual";
  }
  return named(field, control);
}

function choice(field, languages) {
  const control = element("select", "");
  control.append(...languages.map((code) => {
    const option = element("option", "", languageName(code));
    option.value = code;
    return option;
  }));
  const made = named(field, control);
  if (!languages.includes(control.value)) control.value = languages[0];
  return made;
}

// A word, or what is selected in the text: where a word stands twice only its place says which is meant.
function predicate() {
  const control = element("input", "");
  control.dataset.hint = "predicateHint";
  const told = element("small", "place");
  const forget = () => { place = null; told.textContent = ""; };
  const take = button("small", "", () => {
    const text = at(idOf("input"));
    const [from, to] = [text.selectionStart, text.selectionEnd];
    if (from === to || at(`${idOf("input")}-lines`).checked) { told.textContent = words().selectFirst; return; }
    place = { start: countBefore(text.value, from), end: countBefore(text.value, to) };
    control.value = kept.predicate = text.value.slice(from, to);
    told.textContent = `[${place.start}, ${place.end})`;
  });
  take.dataset.text = "takeSelection";
  take.id = "task-take";
  control.addEventListener("input", forget);
  // The fields of a task are drawn together: the text's is there when events can come.
  queueMicrotask(() => {
    for (const each of [idOf("input"), `${idOf("input")}-lines`]) at(each)?.addEventListener("input", forget);
  });
  return named("predicate", control, element("div", "beside", take, told));
}
