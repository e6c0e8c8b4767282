"""A report as one HTML file: opens offline, loads nothing, runs no script.

Words may be given in English and Chinese; a switch at the top, made of two radio buttons and style rules,
shows one of them. Everything that is not a chart of :mod:`weft.core.chart` is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.core.files import write_text_atomic


@dataclass(frozen=True)
class Words:
    """The same words in English and Chinese."""

    en: str
    zh: str


Text = str | Words

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.55 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;
 margin:0 auto;max-width:46rem;padding:1.5rem 1rem 4rem;background:Canvas;color:CanvasText}
h1{font-size:1.7rem;margin:.6rem 0}h2{font-size:1.2rem;margin:2.4rem 0 .6rem;
 border-bottom:1px solid color-mix(in srgb,currentColor 25%,transparent);padding-bottom:.25rem}
p{margin:.5rem 0;overflow-wrap:anywhere}.note{opacity:.75;font-size:.9rem}
svg{max-width:100%;height:auto;display:block;margin:.8rem 0}
table{border-collapse:collapse;margin:.6rem 0;font-size:.93rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.28rem .9rem .28rem 0;vertical-align:top;
 border-bottom:1px solid color-mix(in srgb,currentColor 12%,transparent);overflow-wrap:anywhere}
td:not(.n){min-width:6rem}th{font-weight:600}td.n,th.n{text-align:right;overflow-wrap:normal;white-space:nowrap}
pre{font:13px/1.45 ui-monospace,"DejaVu Sans Mono","Noto Sans Mono CJK SC",monospace;overflow-x:auto;
 padding:.7rem .9rem;border-radius:6px;background:color-mix(in srgb,currentColor 7%,transparent);
 margin:.5rem 0 1rem;tab-size:4}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
pre b{font-weight:700}details>summary{cursor:pointer;margin:.5rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
@media(max-width:40rem){.scroll svg{min-width:34rem;max-width:none}th,td{padding-right:.6rem}
 td:not(.n){min-width:9.5rem}td:last-child:not(.n):not(:first-child){min-width:13rem}}
nav{display:flex;gap:.2rem;justify-content:flex-end;font-size:.9rem}
nav label{cursor:pointer;padding:.1rem .6rem;border-radius:6px}
.pick{position:absolute;opacity:0}
#show-en:checked~nav label[for=show-en],#show-zh:checked~nav label[for=show-zh]
 {background:color-mix(in srgb,currentColor 14%,transparent)}
#show-en:focus-visible~nav label[for=show-en],#show-zh:focus-visible~nav label[for=show-zh]
 {outline:2px solid currentColor}
#show-en:checked~main [lang=zh],#show-zh:checked~main [lang=en]{display:none}
""".strip()


class Page:
    """Parts in the order they are added; :meth:`render` gives the file's text."""

    def __init__(self, title: Words) -> None:
        self.title = title
        self._parts: list[str] = [f"<h1>{_words(title)}</h1>"]

    def section(self, heading: Text) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{_words(heading)}</h2>")

    def paragraph(self, text: Text, *, note: bool = False) -> None:
        """A paragraph; ``note`` sets it smaller."""
        self._parts.append(f'<p class="note">{_words(text)}</p>' if note else f"<p>{_words(text)}</p>")

    def table(self, rows: Sequence[Sequence[Text]], head: Sequence[Text] = (), numeric: str = "") -> None:
        """Rows of cells under an optional head; ``numeric`` has an ``n`` for each column of numbers, as in
        ``".nn"``."""
        kinds = [' class="n"' if mark == "n" else "" for mark in numeric]

        def row(cells: Sequence[Text], tag: str) -> str:
            marks = kinds + [""] * (len(cells) - len(kinds))
            inside = "".join(f"<{tag}{m}>{_words(c)}</{tag}>" for m, c in zip(marks, cells, strict=False))
            return f"<tr>{inside}</tr>"

        top = f"<thead>{row(head, 'th')}</thead>" if head else ""
        body = "".join(row(cells, "td") for cells in rows)
        self._parts.append(f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>')

    def facts(self, facts: Mapping[str, object]) -> None:
        """Names and values as a table of two columns."""
        self.table([(name, str(value)) for name, value in facts.items()])

    def chart(self, svg: str, caption: Text | None = None) -> None:
        """A chart from :mod:`weft.core.chart`; its text is put in as it is."""
        self._parts.append(f'<div class="scroll">{svg}</div>')
        if caption is not None:
            self.paragraph(caption, note=True)

    def charts(self, english: str, chinese: str) -> None:
        """The same chart with words in either language."""
        drawn = (("en", english), ("zh", chinese))
        self._parts += [f'<div class="scroll" lang="{name}">{svg}</div>' for name, svg in drawn]

    def sample(self, text: str, prompt: str = "") -> None:
        """Text as it was written, spaces and line ends kept, the prompt before it in bold."""
        start = f"<b>{_escape(prompt)}</b>" if prompt else ""
        # A line end right after <pre> would be dropped.
        self._parts.append(f"<pre>\n{start}{_escape(text)}</pre>")

    def folded(self, summary: Text, text: str, *, wrap: bool = False) -> None:
        """Text as it was written, shown on a click; ``wrap`` breaks long lines, as prose wants it."""
        look = ' class="wrap"' if wrap else ""
        self._parts.append(
            f"<details><summary>{_words(summary)}</summary><pre{look}>\n{_escape(text)}</pre></details>"
        )

    def render(self) -> str:
        """The whole HTML file; both languages are in it."""
        title = _escape(f"{self.title.en} · {self.title.zh}")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head><body>"
            '<input class="pick" type="radio" name="language" id="show-en" checked>'
            '<input class="pick" type="radio" name="language" id="show-zh">'
            '<nav><label for="show-en">English</label><label for="show-zh">中文</label></nav>\n<main>\n'
            + "\n".join(self._parts)
            + "\n</main></body></html>\n"
        )

    def write(self, file: Path) -> None:
        """Write the file atomically."""
        write_text_atomic(file, self.render())


def _words(text: Text) -> str:
    if isinstance(text, str):
        return _escape(text)
    return f'<span lang="en">{_escape(text.en)}</span><span lang="zh">{_escape(text.zh)}</span>'


def _escape(text: str) -> str:
    """Escaped for HTML; characters that no HTML may hold (controls, lone surrogates) become U+FFFD."""
    clean = "".join(c if (c >= " " or c in "\n\t") and not "\ud800" <= c <= "\udfff" else "�" for c in text)
    return html.escape(clean)
