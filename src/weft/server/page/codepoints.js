// The server counts Unicode code points, JavaScript UTF-16 units: 😀 is one of the first and two of the second.

export class CodePoints {
  constructor(text) {
    this.characters = [...text];
  }

  get length() { return this.characters.length; }

  slice(start, end) { return this.characters.slice(start, end).join(""); }
}

// Code points before a place that is counted in UTF-16 units, as selections of text areas are.
export function countBefore(text, units) {
  return [...text.slice(0, units)].length;
}

// The places [start, end) of a piece that the text has exactly once; null for others.
export function onlyPlace(text, piece) {
  const first = text.indexOf(piece);
  if (!piece || first < 0 || text.indexOf(piece, first + 1) >= 0) return null;
  return { start: countBefore(text, first), end: countBefore(text, first + piece.length) };
}
