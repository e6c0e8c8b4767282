// What a task answered, as it was answered: nothing is rounded to certainty or left out.

import { CodePoints, onlyPlace } from "./codepoints.js";
import { copier, element } from "./elements.js";
import { percent } from "./figures.js";
import { words } from "./language.js";

const MISSING = "not found";
const FIRST = 8;
const PLAIN = 25;

export function drawResults(place, { task, body, answer }) {
  const records = answer.results;
  if (task === "rerank") { place.replaceChildren(ranked(body.documents, records)); return; }
  const inputs = inputsOf(task, body, records.length);
  const hues = huesOf(records);
  const shown = records.map((record, index) => {
    const card = element("section", "result");
    if (inputs.length > 1 && inputs[index].title) card.append(element("p", "given", inputs[index].title));
    card.append(...SHOW[task](record, inputs[index], hues));
    return card;
  });
  if (task === "embed" && records.length > 1) shown.push(similarities(inputs, records));
  place.replaceChildren(...shown);
}

// {text, title, predicate} of each input: the title says which of several it was.
function inputsOf(task, body, count) {
  if (task === "answer") {
    return [body.question].flat().map((question) => ({ text: body.context, title: question }));
  }
  const texts = [body.input].flat();
  const shown = task === "entities" || task === "roles";
  return texts.slice(0, count).map((text) => ({ text, title: shown ? "" : text, predicate: body.predicate }));
}

const SHOW = {
  translate: written, summarize: written, classify: label, sentiment: label,
  entities: pieces, roles: pieces, answer: found, embed: vector,
};

function label(record) {
  const rows = Object.entries(record.scores).sort((one, other) => other[1] - one[1]);
  return [
    element("p", "best", element("strong", "", record.label), " ", element("b", "score", percent(record.score))),
    element("div", "bars", ...rows.flatMap(([name, score]) => bar(name, score, percent(score)))),
  ];
}

function bar(name, share, figure) {
  const fill = element("i", "");
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return [element("span", "name", name), element("span", "bar", fill), element("b", "score", figure)];
}

// A summary may be pieces of the text itself: then they are coloured in it.
function written(record, { text }) {
  const taken = record.spans ?? [];
  const head = element("p", "note", `${taken.length ? words().pieceScore : words().meanScore} ${percent(record.score)}`);
  if (!record.confident) {
    const badge = element("span", "badge", words().unsure);
    badge.title = words().unsureWhy;
    head.append(" ", badge);
  }
  const made = [element("p", "written", record.text || words().emptyAnswer), head];
  if (record.alternatives?.length) {
    made.push(element("p", "note", words().otherTexts), element("ol", "others", ...record.alternatives.map((one) =>
      element("li", "", element("span", "written", one.text || words().emptyAnswer), " ", element("b", "score", percent(one.score))))));
  }
  if (taken.length) made.push(marked(text, taken.map(({ start, end }) => ({ start, end, hue: PLAIN }))));
  return [...made, element("div", "tools", copier(words(), record.text))];
}

function pieces(record, { text, predicate }, hues) {
  const asked = predicate?.start === undefined ? onlyPlace(text, predicate ?? "") : predicate;
  const marks = record.spans.map((span) => ({ ...span, hue: hues.get(span.label) }));
  if (asked) marks.push({ ...asked, className: "predicate" });
  const made = [marked(text, marks)];
  if (!record.spans.length) return [...made, element("p", "note", words().noPieces)];
  return [...made, table(record.spans, hues)];
}

function found(record, { text }) {
  if (record.label === MISSING) {
    return [
      element("p", "best missing", words().notFound),
      element("p", "note", `${words().absence} ${percent(record.score)}`),
      marked(text, []),
    ];
  }
  return [
    element("p", "best", element("strong", "", record.text), " ", element("b", "score", percent(record.score)), " ",
      element("span", "note", placeOf(record))),
    marked(text, [{ ...record, label: "", hue: PLAIN }]),
  ];
}

const placeOf = ({ start, end }) => `[${start}, ${end})`;

// The text with its pieces coloured. Places are code points; a piece inside another one stays in the table alone.
function marked(text, marks) {
  const points = new CodePoints(text);
  const shown = element("p", "marked");
  let from = 0;
  for (const mark of [...marks].sort((one, other) => one.start - other.start)) {
    if (mark.start < from || mark.end > points.length) continue;
    const piece = element("mark", mark.className ?? "", points.slice(mark.start, mark.end));
    if (mark.hue !== undefined) piece.style.setProperty("--hue", mark.hue);
    if (mark.label) {
      piece.append(element("small", "", mark.label));
      piece.title = `${mark.label} ${percent(mark.score)} ${placeOf(mark)}`;
    }
    shown.append(points.slice(from, mark.start), piece);
    from = mark.end;
  }
  shown.append(points.slice(from, points.length));
  return shown;
}

function table(spans, hues) {
  const said = words();
  const head = [said.label, said.piece, said.place, said.score].map((name) => element("th", "", name));
  const rows = spans.map((span) => {
    const name = element("mark", "", span.label);
    name.style.setProperty("--hue", hues.get(span.label));
    const cells = [name, span.text, placeOf(span), percent(span.score)];
    return element("tr", "", ...cells.map((cell) => element("td", "", cell)));
  });
  return element("table", "", element("thead", "", element("tr", "", ...head)), element("tbody", "", ...rows));
}

// A colour for each label, the same in all results: far apart on the circle, however many there are.
function huesOf(records) {
  const labels = [...new Set(records.flatMap((record) => record.spans ?? []).map((span) => span.label))].sort();
  return new Map(labels.map((name, index) => [name, Math.round(PLAIN + index * 137.5) % 360]));
}

function vector(record) {
  const numbers = record.embedding;
  const shown = numbers.slice(0, FIRST).map((number) => number.toFixed(4)).join(", ");
  return [
    element("p", "note", words().dimensions(numbers.length)),
    element("p", "vector", numbers.length > FIRST ? `${shown}, …` : shown),
    element("div", "tools", copier(words(), JSON.stringify(numbers))),
  ];
}

function similarities(inputs, records) {
  const dot = (one, other) => one.embedding.reduce((sum, number, index) => sum + number * other.embedding[index], 0);
  const head = element("tr", "", element("th", ""), ...records.map((_, index) => element("th", "", index + 1)));
  const rows = records.map((record, index) => element("tr", "", element("th", "", `${index + 1} ${new CodePoints(inputs[index].title).slice(0, 24)}`),
    ...records.map((other) => element("td", "", dot(record, other).toFixed(2)))));
  return element("section", "result", element("p", "note", words().similarity), element("table", "cosines", element("tbody", "", head, ...rows)));
}

function ranked(documents, records) {
  const rows = records.flatMap(({ index, relevance_score: score }) => bar(documents[index], score, score.toFixed(3)));
  return element("section", "result", element("p", "note", words().relevance), element("div", "bars wide", ...rows));
}
