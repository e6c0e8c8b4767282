// Elements of the page, and what it remembers between visits.

export const at = (id) => document.getElementById(id);

export function element(kind, className, ...content) {
  const made = document.createElement(kind);
  made.className = className;
  made.append(...content);
  return made;
}

export function button(className, text, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

// A button that puts a text into the clipboard and says so.
export function copier(said, text) {
  return button("plain small", said.copy, async (event) => {
    if (await intoClipboard(text)) event.target.textContent = said.copied;
  });
}

// Browsers give the clipboard to pages over HTTPS alone; over HTTP what is selected can be copied.
async function intoClipboard(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return true;
  }
  const focused = document.activeElement;
  const area = element("textarea", "");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused.focus();
  return copied;
}

// Whether a key is an input method's own. Safari ends the composition before the key that confirms it and leaves
// that key its old code.
export const composing = (event) => event.isComposing || event.keyCode === 229;

export function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function remembered(key) {
  try { return localStorage.getItem(`weft-${key}`); } catch { return null; }
}

export function remember(key, value) {
  try { localStorage.setItem(`weft-${key}`, value); } catch { /* private windows may forbid it */ }
}
