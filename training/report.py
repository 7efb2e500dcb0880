"""A report as blocks, written as Markdown and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root { --ink: #1f2a37; --soft: #5b6676; --line: #e5e9f0; --main: #0f6fde; --paper: #fff; --back: #f5f7fa; }
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
p { margin: .8rem 0; }
p.lead { color: var(--soft); margin: 0 0 1.6rem; }
section, .figure { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; }
section { padding: 1.25rem 1.4rem; margin: 0 0 1.1rem; }
section > :last-child { margin-bottom: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1.1rem 0; }
.figure { padding: .9rem 1.1rem; }
.figure b { display: block; font-size: 1.7rem; line-height: 1.2; color: var(--main); }
.figure span { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; }
td:first-child { white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .38rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
tr:last-child td { border-bottom: 0; } tr.strong td { font-weight: 650; background: #eef5ff; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
img { display: block; max-width: 100%; height: auto; margin: .4rem auto .6rem; }
"""


@dataclass(frozen=True)
class Figures:
    """The headline figures: (value, what it is) each."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; `strong` are the rows (from 0) to stand out."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """An SVG picture, and what it shows for who cannot see it."""

    svg: str
    shows: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: paragraphs (plain text), tables and pictures."""

    title: str
    parts: Sequence[str | Table | Picture]


@dataclass(frozen=True)
class Report:
    """All of a report."""

    title: str
    lead: str
    figures: Figures
    sections: Sequence[Section]

    def markdown(self) -> str:
        """The report without its pictures."""
        lines = [f"# {self.title}", "", self.lead, "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | **{value}** |" for value, name in self.figures.items]
        for section in self.sections:
            lines += ["", f"## {section.title}", ""]
            for part in section.parts:
                lines += _markdown(part)
        return "\n".join(lines).rstrip() + "\n"

    def page(self) -> str:
        """The report as one HTML page, pictures inside."""
        cards = "".join(
            f'<div class="figure"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
            for value, name in self.figures.items
        )
        sections = "".join(
            f"<section><h2>{html.escape(section.title)}</h2>{''.join(map(_html, section.parts))}</section>\n"
            for section in self.sections
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
            f'<h1>{html.escape(self.title)}</h1><p class="lead">{html.escape(self.lead)}</p>\n'
            f'<div class="figures">{cards}</div>\n{sections}</main></body></html>\n'
        )


def _markdown(part: str | Table | Picture) -> list[str]:
    if isinstance(part, Picture):
        return []
    if isinstance(part, str):
        return [part, ""]
    lines = ["| " + " | ".join(part.header) + " |", "|" + "---|" * len(part.header)]
    for i, row in enumerate(part.rows):
        cells = [f"**{_cell(cell)}**" if i in part.strong else _cell(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _html(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.svg.encode()).decode()
        return f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(part.shows)}">'
    number = [all(_is_number(row[i]) for row in part.rows) for i in range(len(part.header))]
    kinds = [' class="number"' if each else "" for each in number]
    head = "".join(f"<th{kind}>{html.escape(cell)}</th>" for kind, cell in zip(kinds, part.header, strict=True))
    body = ""
    for i, row in enumerate(part.rows):
        cells = "".join(f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        strong = ' class="strong"' if i in part.strong else ""
        body += f"<tr{strong}>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    return cell.strip("+-%").replace(",", "").replace(".", "", 1).isdigit()
