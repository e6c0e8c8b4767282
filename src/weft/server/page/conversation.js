// The conversation as this tab keeps it: a reload brings it back, and it ends with the tab, as a key does.

const NAME = "weft-conversation";

export function keep(turns, system) {
  const record = { turns: turns.map(({ places, ...turn }) => turn), system };
  try {
    // First of all: where there is no room, an older one would come back in its place.
    sessionStorage.removeItem(NAME);
    if (turns.length || system) sessionStorage.setItem(NAME, JSON.stringify(record));
  } catch { /* browsers may forbid it: then it is lost with the page */ }
}

// Turns without places; a question that was still to be answered comes by itself, as `question`.
export function kept() {
  let record = null;
  try { record = JSON.parse(sessionStorage.getItem(NAME)); } catch { /* then there is none */ }
  const turns = record?.turns ?? [];
  const question = turns.at(-1)?.role === "user" ? turns.pop().content : "";
  return { turns, system: record?.system ?? "", question };
}
