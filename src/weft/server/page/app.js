// The page: which view is open, which models there are, and the language.

import { get, setKey } from "./api.js";
import * as chat from "./chat.js";
import { sentence } from "./complaint.js";
import { at, composing, remember, remembered } from "./elements.js";
import { otherLanguage, translate, words } from "./language.js";
import { listModels } from "./settings.js";
import * as tasks from "./tasks.js";
import { installBubble } from "./tokens.js";

const MODES = ["completion", "chat", "tasks"];

let mode = MODES.includes(remembered("mode")) ? remembered("mode") : "completion";

function write() {
  translate();
  document.body.classList.toggle("tasks", mode === "tasks");
  for (const each of MODES) at(`mode-${each}`).setAttribute("aria-pressed", String(each === mode));
  if (mode !== "tasks") chat.setChat(mode === "chat");
  else tasks.write();
}

function setMode(wanted) {
  if (mode === wanted || chat.working()) return;
  mode = wanted;
  remember("mode", mode);
  write();
  // Some browsers forget where what they hid was scrolled to.
  chat.toEnd();
}

// Only what the served models can do is offered; a model of which nothing is known may continue texts.
function offer(known) {
  const writers = known.filter((model) => !model.kind || model.kind === "decoder");
  const able = tasks.listTasks(known);
  for (const each of ["completion", "chat"]) at(`mode-${each}`).hidden = !writers.length;
  at("mode-tasks").hidden = !able;
  listModels(writers);
  if (mode === "tasks" ? !able : able && !writers.length) {
    mode = able ? "tasks" : "completion";
    write();
  }
}

async function refresh() {
  try {
    offer((await get("/v1/models")).data);
    await queue();
  } catch (error) {
    for (const status of [chat.status, tasks.status]) status(sentence(error), true);
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

document.addEventListener("keydown", (event) => {
  // Keys of an input method are its own.
  if (composing(event)) return;
  if (event.key === "Escape") (mode === "tasks" ? tasks : chat).stop();
  if (event.altKey && event.code === "KeyR") {
    event.preventDefault();
    (mode === "tasks" ? tasks.run : chat.again)();
  }
});
for (const each of MODES) at(`mode-${each}`).addEventListener("click", () => setMode(each));
at("export-markdown").addEventListener("click", chat.exportMarkdown);
at("export-json").addEventListener("click", () => (mode === "tasks" ? tasks : chat).exportJson());
at("key-dialog").addEventListener("close", () => {
  setKey(at("key").value);
  for (const status of [chat.status, tasks.status]) status("");
  refresh();
});
at("language").addEventListener("click", () => { otherLanguage(); write(); });
if (matchMedia("(max-width: 720px)").matches) at("settings").open = false;
installBubble(at("bubble"), words);
chat.install(refresh);
tasks.install(refresh);
write();
refresh();
setInterval(queue, 2000);
