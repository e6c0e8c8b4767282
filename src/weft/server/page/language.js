// The language of the page, and its words where the markup asks for them.

import { at, remember, remembered } from "./elements.js";
import { WORDS } from "./words.js";

let language = remembered("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export const words = () => WORDS[language];

export function otherLanguage() {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
}

export function translate(root = document) {
  const said = words();
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  at("language").textContent = said.other;
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = said[each.dataset.text];
  for (const each of root.querySelectorAll("[data-hint]")) each.placeholder = said[each.dataset.hint];
  for (const each of root.querySelectorAll("[data-label]")) each.setAttribute("aria-label", said[each.dataset.label]);
}

// "zh · 中文" for a code that browsers know, the code alone for others.
export function languageName(code) {
  try {
    const name = new Intl.DisplayNames([document.documentElement.lang], { type: "language", fallback: "none" }).of(code);
    return name ? `${code} · ${name}` : code;
  } catch { return code; }
}
