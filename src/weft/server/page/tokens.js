// The text of an answer as it comes: plain, or as tokens with their probabilities and alternatives.

import { percent } from "./figures.js";

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";

// Completions give lists, chat gives records; both become records.
export function recordsOf(logprobs) {
  if (logprobs.content) return logprobs.content;
  return logprobs.tokens.map((token, index) => ({
    token, bytes: bytesOf(token), logprob: logprobs.token_logprobs[index],
    // Objects put names such as "1" first, whatever their order was.
    top_logprobs: Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => ({ token: other, logprob })).sort((one, other) => other.logprob - one.logprob),
  }));
}

function bytesOf(token) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(token)) return [...new TextEncoder().encode(token)];
  return token.slice(6).split("\\x").slice(1).map((digits) => parseInt(digits, 16));
}

// A byte order mark is text like any other.
const decoder = () => new TextDecoder("utf-8", { ignoreBOM: true });

export class Writer {
  constructor(place) {
    this.place = place;
    this.text = "";
    this.spelled = "";
    this.decoder = decoder();
    this.waiting = [];
    this.partial = [];
  }

  // Adds a piece of text, and the records of its tokens when there are any.
  add(piece, records) {
    this.text += piece;
    if (!records) {
      if (piece) this.place.append(piece);
      this.spelled += piece;
      return;
    }
    this.waiting.push(...records);
    while (this.waiting.length && this.spell(this.waiting[0], false)) this.waiting.shift();
  }

  // Shows one token; false when its text has not come yet: text held back for a stop string comes later.
  spell(record, last) {
    const bytes = record.bytes && new Uint8Array(record.bytes);
    const text = bytes ? this.decoder.decode(bytes, { stream: true }) : record.token;
    const fits = text && this.text.startsWith(this.spelled + text);
    if (fits || (!text && bytes)) {
      // A token may also end a character and begin another one, of which three bytes are the most.
      this.partial = [...this.partial, ...(bytes ?? [])].slice(-3);
      if (fits) {
        this.spelled += text;
        this.place.append(span(text, record));
      }
      return true;
    }
    // The token is unread again: a part of a character before it stays.
    this.decoder = decoder();
    this.decoder.decode(new Uint8Array(this.partial), { stream: true });
    // Where other text follows, it has none itself: the end of a turn, for instance.
    return last || this.text.length > this.spelled.length;
  }

  // The answer is over: what no token accounts for is shown plainly.
  end() {
    while (this.waiting.length && this.spell(this.waiting[0], true)) this.waiting.shift();
    if (this.spelled.length < this.text.length) this.place.append(this.text.slice(this.spelled.length));
  }
}

function span(text, record) {
  const element = document.createElement("span");
  element.className = "token";
  element.tabIndex = 0;
  element.textContent = text;
  element.style.setProperty("--doubt", (1 - Math.exp(record.logprob)).toFixed(3));
  element.record = record;
  element.setAttribute("aria-label", `${visible(text)} ${percent(Math.exp(record.logprob))}`);
  return element;
}

// One bubble for the whole page, shown at the token under the pointer or the focus.
export function installBubble(bubble, words) {
  const show = (element) => {
    const { record } = element;
    const rows = [record, ...record.top_logprobs.filter((other) => other.token !== record.token)];
    bubble.replaceChildren(...rows.map((row, index) => {
      const line = document.createElement("div");
      line.className = index ? "row" : "row chosen";
      const name = document.createElement("code");
      name.textContent = visible(row.token);
      const bar = document.createElement("i");
      bar.style.width = `${Math.max(1, Math.exp(row.logprob) * 60)}px`;
      const share = document.createElement("b");
      share.textContent = percent(Math.exp(row.logprob));
      line.append(name, bar, share);
      return line;
    }));
    bubble.setAttribute("aria-label", words().others);
    bubble.hidden = false;
    const box = element.getClientRects()[0];
    const left = Math.min(Math.max(8, box.left), innerWidth - bubble.offsetWidth - 8);
    const below = box.bottom + 6 + bubble.offsetHeight < innerHeight;
    bubble.style.left = `${left}px`;
    bubble.style.top = `${below ? box.bottom + 6 : box.top - bubble.offsetHeight - 6}px`;
  };
  const over = (event) => (event.target.record ? show(event.target) : (bubble.hidden = true));
  for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, over);
  document.addEventListener("scroll", () => { bubble.hidden = true; }, true);
}
