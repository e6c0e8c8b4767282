// Which models continue texts, and how: the panel beside the chat.

import { at, element } from "./elements.js";
import { words } from "./language.js";

const NUMBERS = [
  "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty",
  "presence_penalty", "seed",
];
const OFF = { top_k: 0, min_p: 0, repetition_penalty: 1, frequency_penalty: 0, presence_penalty: 0, top_p: 1 };

const boxes = () => [...document.querySelectorAll("#models input")];

export const chosen = () => boxes().filter((input) => input.checked).map((input) => input.value);

// The first number that cannot be read, "1,5" say: its field gives it as if it were empty.
export const unread = () => NUMBERS.find((name) => at(name).validity.badInput);

export function settings() {
  const body = {};
  for (const name of NUMBERS) {
    const value = at(name).value;
    if (value !== "" && Number(value) !== OFF[name]) body[name] = Number(value);
  }
  if (at("stop_text").value) body.stop = at("stop_text").value;
  return body;
}

export function listModels(known) {
  const before = new Set(chosen().length ? chosen() : [known[0]?.id]);
  at("models").replaceChildren(at("models").firstElementChild, ...known.map((model) => {
    const input = element("input", "");
    input.type = "checkbox";
    input.value = model.id;
    input.checked = before.has(model.id);
    input.dataset.loaded = model.loaded;
    return element("label", "check", input, element("span", "", model.id, " ", element("small", "")));
  }));
  // What a chosen model cannot hold would only be refused.
  const shortest = Math.min(...known.filter((model) => before.has(model.id)).map((model) => model.max_model_len ?? Infinity));
  if (Number(at("max_tokens").value) >= shortest) at("max_tokens").value = Math.max(1, Math.floor(shortest / 2));
  at("probabilities").disabled = !known.some((model) => model.supported?.includes("logprobs"));
  writeModels();
}

export function writeModels() {
  for (const input of boxes()) {
    input.nextSibling.lastChild.textContent = input.dataset.loaded === "true" ? words().loaded : words().asleep;
  }
  const unable = at("probabilities").disabled && boxes().length;
  at("probabilities").parentElement.title = unable ? words().noProbabilities : "";
}
