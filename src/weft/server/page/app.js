"use strict";

const WORDS = {
  en: {
    other: "中文", completion: "Completion", chat: "Chat", mode: "Mode", settings: "Settings",
    send: "Send", stop: "Stop", clear: "Clear", system: "System prompt", max_tokens: "Length (tokens)",
    temperature: "Temperature (0: likeliest)", top_p: "Top-p", top_k: "Top-k (0: off)", min_p: "Min-p",
    repetition_penalty: "Repetition penalty", seed: "Seed", stop_text: "Stop at", random: "random", none: "nothing",
    inputCompletion: "Begin a text; the model continues it.", inputChat: "Say something.",
    emptyCompletion: "The continued text appears here.", emptyChat: "The conversation appears here.",
    user: "You", assistant: "Model", waiting: "Waiting…", stopped: "Stopped", broken: "The connection was lost.",
    tokens: (n, speed) => `${n} tokens, ${speed} tokens/s`, length: "length reached",
  },
  zh: {
    other: "English", completion: "续写", chat: "对话", mode: "模式", settings: "设置",
    send: "发送", stop: "停止", clear: "清空", system: "系统提示", max_tokens: "长度（词元）",
    temperature: "温度（0 为最可能）", top_p: "Top-p", top_k: "Top-k（0 为关闭）", min_p: "Min-p",
    repetition_penalty: "重复惩罚", seed: "随机种子", stop_text: "遇到即止", random: "随机", none: "无",
    inputCompletion: "写一个开头，模型接着写。", inputChat: "说点什么。",
    emptyCompletion: "续写的文字显示在这里。", emptyChat: "对话显示在这里。",
    user: "你", assistant: "模型", waiting: "等待中…", stopped: "已停止", broken: "连接中断。",
    tokens: (n, speed) => `${n} 个词元，每秒 ${speed} 个`, length: "已达长度上限",
  },
};
const NUMBERS = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"];

const at = (id) => document.getElementById(id);
let language = remembered("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let chat = remembered("mode") === "chat";
let model = null;
let turns = [];
let controller = null;

function remembered(key) {
  try { return localStorage.getItem(`weft-${key}`); } catch { return null; }
}

function remember(key, value) {
  try { localStorage.setItem(`weft-${key}`, value); } catch { /* private windows may forbid it */ }
}

function write() {
  const words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.body.classList.toggle("chat", chat);
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = words[element.dataset.text];
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = words[element.dataset.hint];
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", words[element.dataset.label]);
  for (const element of document.querySelectorAll("[data-role]")) element.textContent = words[element.dataset.role];
  at("language").textContent = words.other;
  at("mode-completion").setAttribute("aria-pressed", String(!chat));
  at("mode-chat").setAttribute("aria-pressed", String(chat));
  const hint = chat ? words.inputChat : words.inputCompletion;
  at("input").placeholder = hint;
  at("input").setAttribute("aria-label", hint);
  at("transcript").dataset.empty = chat ? words.emptyChat : words.emptyCompletion;
}

function status(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function busy(on) {
  at("stop").hidden = !on;
  at("send").disabled = on;
  at("clear").disabled = on;
  at("mode-completion").disabled = on;
  at("mode-chat").disabled = on;
}

function addTurn(role, text) {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  const who = document.createElement("div");
  who.className = "who";
  who.dataset.role = role;
  who.textContent = WORDS[language][role];
  const said = document.createElement("div");
  said.className = "said";
  said.textContent = text;
  turn.append(who, said);
  at("transcript").append(turn);
  return said;
}

function addText(prompt) {
  const text = document.createElement("div");
  text.className = "text";
  const continued = document.createElement("span");
  continued.className = "new";
  text.append(prompt, continued);
  at("transcript").replaceChildren(text);
  return continued;
}

function settings() {
  const body = { model, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) if (at(name).value !== "") body[name] = Number(at(name).value);
  if (at("stop_text").value) body.stop = at("stop_text").value;
  return body;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function generate(path, body, place) {
  const words = () => WORDS[language];
  const scroller = at("transcript");
  controller = new AbortController();
  busy(true);
  status(words().waiting);
  place.classList.add("writing");
  let first = 0, pieces = 0, tokens = null, ended = "";
  const speed = () => {
    const count = tokens === null ? pieces : tokens;
    const seconds = Math.max((performance.now() - first) / 1000, 1e-3);
    return words().tokens(count, ((count - 1) / seconds).toFixed(1));
  };
  try {
    const response = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body), signal: controller.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.text ?? choice.delta?.content ?? "";
      if (choice.finish_reason === "length") ended = ` · ${words().length}`;
      if (!piece) continue;
      if (!pieces++) first = performance.now();
      const follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      place.append(piece);
      if (follow) scroller.scrollTop = scroller.scrollHeight;
      if (pieces > 1) status(speed());
    }
    status(pieces > 1 ? speed() + ended : "");
  } catch (error) {
    if (error.name === "AbortError") status(`${words().stopped}${pieces > 1 ? " · " + speed() : ""}`);
    else status(error instanceof TypeError ? words().broken : error.message, true);
  } finally {
    place.classList.remove("writing");
    controller = null;
    busy(false);
  }
  return place.textContent;
}

async function send() {
  const text = at("input").value;
  if (controller || (chat && !text)) return;
  if (!chat) {
    const whole = text + await generate("/v1/completions", { ...settings(), prompt: text }, addText(text));
    at("input").value = whole;
    return;
  }
  at("input").value = "";
  if (!turns.length) at("transcript").replaceChildren();
  turns.push({ role: "user", content: text });
  const asked = addTurn("user", text);
  const place = addTurn("assistant", "");
  place.parentElement.scrollIntoView({ block: "end" });
  const system = at("system").value ? [{ role: "system", content: at("system").value }] : [];
  const answer = await generate("/v1/chat/completions", { ...settings(), messages: [...system, ...turns] }, place);
  if (answer) {
    turns.push({ role: "assistant", content: answer });
  } else {
    turns.pop();
    asked.parentElement.remove();
    place.parentElement.remove();
    if (!at("input").value) at("input").value = text;
  }
  at("input").focus();
}

function clear() {
  turns = [];
  at("transcript").replaceChildren();
  status("");
  at("input").focus();
}

function setMode(toChat) {
  if (chat === toChat) return;
  chat = toChat;
  remember("mode", chat ? "chat" : "completion");
  clear();
  write();
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("input").addEventListener("keydown", (event) => {
  // Enter that confirms a Chinese input method's choice must not send.
  if (event.key !== "Enter" || event.isComposing) return;
  if (chat ? !event.shiftKey : event.ctrlKey || event.metaKey) { event.preventDefault(); send(); }
});
at("stop").addEventListener("click", () => controller?.abort());
at("clear").addEventListener("click", clear);
at("mode-completion").addEventListener("click", () => setMode(false));
at("mode-chat").addEventListener("click", () => setMode(true));
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
  write();
});
if (matchMedia("(max-width: 720px)").matches) at("settings").open = false;
write();
fetch("/v1/models").then((response) => response.json()).then((list) => {
  model = list.data[0].id;
  at("model").textContent = model;
}).catch(() => status(WORDS[language].broken, true));
