"""The report's page: sections with anchors, tables and images in one self-contained HTML document without scripts."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.45 Georgia, serif; color: #111; background: #fff; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2, h3, nav, table, summary { font-family: Helvetica, Arial, sans-serif; }
nav ul { columns: 3; padding-left: 1.2rem; } section { border-top: 1px solid #999; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 13px; margin: .8rem 0; } caption { text-align: left; font-style: italic; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .6rem; text-align: right; } th { border-bottom: 2px solid #111; }
th:first-child, td:first-child { text-align: left; } td.text, th.text { text-align: left; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figure img, figure svg { max-width: 100%; height: auto; }
figcaption { font-size: 13px; } details { margin-left: 1.2rem; }
.hit { font-weight: bold; } .note { color: #444; font-size: 13px; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: ``anchor`` is its id, ``body`` HTML that is not empty."""

    anchor: str
    title: str
    body: str


def render_page(title: str, sections: Sequence[Section]) -> str:
    """A whole HTML document with a table of contents.

    Raises:
        ValueError: if two sections share an anchor, or one says nothing.
    """
    anchors = [section.anchor for section in sections]
    if len(set(anchors)) < len(anchors):
        raise ValueError(f"sections share an anchor: {', '.join(anchors)}; give each its own")
    empty = [section.anchor for section in sections if not section.body.strip()]
    if empty:
        raise ValueError(f"section {empty[0]} is empty; say in a sentence why there is nothing to show")
    contents = "".join(f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections)
    bodies = "\n".join(f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{section.body}\n</section>'
                       for section in sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n<title>{escape(title)}</title>\n'
            f'<link rel="icon" href="data:,"/>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n'
            f"<nav><ul>{contents}</ul></nav>\n{bodies}\n</body>\n</html>\n")


def paragraph(text: str, note: bool = False) -> str:
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", text_columns: int = 1) -> str:
    """Cells are escaped, floats rounded to 4 decimals; the first ``text_columns`` columns are set to the left."""
    def line(tag: str, cells: Sequence[Any]) -> str:
        texts = [escape(cell if tag == "th" else format_cell(cell)) for cell in cells]
        left = [f'<{tag} class="text">{text}</{tag}>' for text in texts[:text_columns]]
        return "<tr>" + "".join([*left, *(f"<{tag}>{text}</{tag}>" for text in texts[text_columns:])]) + "</tr>"

    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>{head}<thead>{line("th", header)}</thead><tbody>{body}</tbody></table></div>'


def format_cell(value: Any) -> str:
    """``None`` as a dash, floats with 4 decimals, large whole numbers with separators."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def image(svg: bytes, caption: str) -> str:
    """An SVG inside the page, as a data URI, so that ids of several images cannot meet."""
    data = base64.b64encode(svg).decode("ascii")
    return (f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/svg+xml;base64,{data}"/>'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def fold(summary: str, body: str, opened: bool = False) -> str:
    """A part that the reader opens; ``body`` is HTML."""
    start = '<details open="open">' if opened else "<details>"
    return f"{start}<summary>{escape(summary)}</summary>{body}</details>"


def bullets(lines: Sequence[str]) -> str:
    """A list; each line is HTML."""
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
