"""Web pages in one file: nothing is fetched from anywhere, light and dark, for narrow and wide windows.

What goes into a page is :data:`Markup`, which the functions here make; every text given to them is shown as it is. The
same content gives the same bytes.
"""

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import NamedTuple, NewType

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from numpy import ndarray
from PIL import Image
from torch import Tensor

from composer_copypaste.files import atomic_write

Markup = NewType("Markup", str)
"""HTML, in which texts are escaped."""

MOST_WITHOUT_CONTENTS = 3
"""A page of more sections begins with a table of contents."""
JPEG_QUALITY = 88
WIDEST_PART = 31
"""Parts side by side are not wider, in widths of the letter M."""
MISSING = "-"
_BREAK = re.compile(r"\S{11,}?(=|,|(?<=[A-Za-z])[._])(?=[\w\[])")
"""The first characters of a long name of a column or row, such as of a setting and its value, after which it may go on
in a new line; a column is as narrow as its longest word, so shorter ones would stand in it one below the other."""
GENERATOR = '<meta name="generator" content="composer-copypaste">'
"""In the head of every page."""


class Cell(NamedTuple):
    """A cell of a table: its text, and the number by which it is sorted, where it is one."""

    text: str
    value: int | float | None = None


Value = Cell | str | int | float | None
"""What a cell may hold. None, and a number that is not finite, are shown as a dash."""


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own, to which a link can lead."""

    heading: str
    parts: Sequence[Markup]


# ---- parts of a page


def paragraph(text: str) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{escape(text)}</p>")


def bullets(texts: Sequence[str]) -> Markup:
    """A list with a bullet for each text."""
    return Markup(f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>")


def code(text: str) -> Markup:
    """Text in a typewriter's letters, with its line breaks, such as a command."""
    return Markup(f"<pre>{escape(text)}</pre>")


def warning(text: str) -> Markup:
    """A paragraph that catches the eye."""
    return Markup(f'<p class="warning"><strong>Warning:</strong> {escape(text)}</p>')


def side_by_side(parts: Sequence[Markup]) -> Markup:
    """Parts in a row, in several rows where the window is narrow."""
    return Markup(f'<div class="row" style="max-width: {WIDEST_PART * len(parts)}rem">{"".join(parts)}</div>')


def table(headers: Sequence[str], rows: Sequence[Sequence[Value]], caption: str = "") -> Markup:
    """A table, which a click on a header sorts; numbers stand to the right.

    Args:
        headers: a heading for each column.
        rows: the cells of each row; the first names the row.
        caption: stands above the table.
    """
    cells = [[_as_cell(value) for value in row] for row in rows]
    numeric = [_is_numeric([row[column] for row in cells]) for column in range(len(headers))]
    head = "".join(_tag("th", header, right, 'scope="col"') for header, right in zip(headers, numeric, strict=True))
    body = "".join(f"<tr>{_table_row(row, numeric)}</tr>" for row in cells)
    title = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    content = f"{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return Markup(f'<div class="scroll" tabindex="0"><table>{content}</table></div>')


def _as_cell(value: Value) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if isinstance(value, Cell):
        return value
    if value is None or not isfinite(value):
        return Cell(MISSING)
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}", value)


def _is_numeric(column: Sequence[Cell]) -> bool:
    """Whether a column holds numbers or dashes alone."""
    return all(cell.value is not None or cell.text == MISSING for cell in column)


def _table_row(row: Sequence[Cell], numeric: Sequence[bool]) -> str:
    made = []
    for column, (cell, right) in enumerate(zip(row, numeric, strict=True)):
        value = "" if cell.value is None else f'data-value="{cell.value:.9g}"'
        name, attributes = ("td", value) if column else ("th", f'scope="row" {value}'.strip())
        made.append(_tag(name, cell.text, right, attributes))
    return "".join(made)


def _tag(name: str, text: str, right: bool, attributes: str) -> str:
    parts = [name, *([attributes] if attributes else []), *(['class="number"'] if right else [])]
    content = _BREAK.sub(r"\g<0><wbr>", escape(text)) if name == "th" else escape(text)
    return f"<{' '.join(parts)}>{content}</{name}>"


def figure(drawn: Figure, caption: str) -> Markup:
    """A matplotlib figure, as lines that stay sharp at any size, with its caption.

    What is black in it (texts and axes, by default) has the color of the page's text, light or dark; other colors stay,
    and have to be seen on both. ``$`` in its texts is a character like any other. A figure shrinks with the window: one
    of about 5 x 3.5 inches stays readable on a phone, and several stand `side_by_side`.
    """
    return _captioned(_inline_svg(drawn), caption)


def image(pixels: UInt8[Tensor, "3 h w"] | UInt8[ndarray, "h w 3"], caption: str = "") -> Markup:
    """An RGB image, a tensor or an array, with its caption; as PNG or as JPEG, whichever is smaller."""
    rgb = pixels.permute(1, 2, 0).cpu().numpy() if isinstance(pixels, Tensor) else pixels
    shown = Image.fromarray(np.ascontiguousarray(rgb))
    png, jpeg = io.BytesIO(), io.BytesIO()
    shown.save(png, "PNG")
    shown.save(jpeg, "JPEG", quality=JPEG_QUALITY, optimize=True)
    kind, data = min((("png", png.getvalue()), ("jpeg", jpeg.getvalue())), key=lambda encoded: len(encoded[1]))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    size = f'width="{shown.width}" height="{shown.height}"'
    return _captioned(f'<img src="{source}" {size} alt="{escape(caption)}">', caption)


def _captioned(content: str, caption: str) -> Markup:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f"<figure>{content}{below}</figure>")


# ---- pages


def page(title: str, sections: Sequence[Section], lead: Sequence[Markup] = ()) -> str:
    """The page of these sections; ``lead`` stands between its title and the first of them."""
    anchors = _anchors([section.heading for section in sections])
    body = [f"<h1>{escape(title)}</h1>", *lead]
    if len(sections) > MOST_WITHOUT_CONTENTS:
        links = (
            f'<li><a href="#{anchor}">{escape(section.heading)}</a></li>'
            for anchor, section in zip(anchors, sections, strict=True)
        )
        body.append(f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>')
    for anchor, section in zip(anchors, sections, strict=True):
        heading = f'<h2><a href="#{anchor}">{escape(section.heading)}</a></h2>'
        body.append(f'<section id="{anchor}">{heading}{"".join(section.parts)}</section>')
    return _PAGE.format(
        generator=GENERATOR, policy=_POLICY, title=escape(title), style=_STYLE, body="\n".join(body), script=_SCRIPT
    )


def write_page(path: Path, content: str) -> None:
    """Write a page to a file, all of it or nothing; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content.encode(errors="backslashreplace"))  # a file's name may hold half a character


def _anchors(headings: Sequence[str]) -> list[str]:
    """A name for each heading that links can use, different from all others."""
    found: list[str] = []
    for heading in headings:
        name = re.sub(r"\W+", "-", heading.lower()).strip("-") or "section"
        again = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.append(f"{name}-{again + 1}" if again else name)
    return found


def _inline_svg(drawn: Figure) -> str:
    """The figure as an ``svg`` element, whose ids no other figure has."""
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "copypaste"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has other fonts
        _take_dollars_as_they_are(drawn)
        drawn.draw_without_rendering()  # makes the labels of the ticks
        _take_dollars_as_they_are(drawn)
        for legend in drawn.findobj(Legend):
            legend.set_frame_on(False)
        drawn.savefig(written, format="svg", transparent=True, metadata=nothing)
    svg = written.getvalue()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace("#000000", "currentColor")
    own = hashlib.sha256(svg.encode(errors="backslashreplace")).hexdigest()[:8]
    return re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{own}-", svg).strip()


def _take_dollars_as_they_are(drawn: Figure) -> None:
    """Let no text of the figure be a formula, but matplotlib's own powers of ten on a logarithmic axis."""
    for text in drawn.findobj(Text):
        text.set_parse_math(text.get_text().startswith(r"$\mathdefault{"))


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #ffffff; --soft: #f2f4f6; --line: #d5dae0; --faint: #59636e;
  --link: #0a5aa8; --alert: #fff3d6; --alert-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #15181c; --soft: #20252b; --line: #3a424b;
  --faint: #9aa5b1; --link: #7ab8f5; --alert: #372b0d; --alert-line: #d99a00; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover::after { content: " #"; color: var(--faint); }
a { color: var(--link); }
p, ul { max-width: 46rem; }
pre, .scroll, .warning, nav { background: var(--soft); border-radius: .4rem; }
pre { padding: .7rem .9rem; font-size: .875rem; white-space: pre-wrap; overflow-wrap: anywhere; }
nav { padding: .6rem 1rem; }
nav ul { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; max-width: none; }
.warning { background: var(--alert); border-left: .3rem solid var(--alert-line); padding: .6rem .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem .8rem .2rem; color: var(--faint); }
caption span { display: block; position: sticky; left: .8rem; width: fit-content; max-width: calc(100vw - 3.6rem); }
th, td { padding: .35rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { vertical-align: bottom; }
td, th { max-width: 22rem; }
th[scope=row] { font-weight: 500; }
th[scope=row], thead th:first-child { position: sticky; left: 0; max-width: min(22rem, 45vw); background: var(--soft); }
.number { text-align: right; }
td.number { white-space: nowrap; }
thead .number { max-width: 11rem; overflow-wrap: break-word; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
figure { margin: 1rem 0; min-width: 0; }
figcaption { color: var(--faint); font-size: .9rem; max-width: 46rem; }
img, svg { display: block; max-width: 100%; height: auto; }
svg { fill: currentColor; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .5rem 1.2rem; }
.row > * { margin: .5rem 0; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.onclick = () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach(other => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = row => Number(row.cells[column].dataset.value ?? NaN);
      const text = row => row.cells[column].textContent;
      const order = (a, b) => isNaN(number(a)) || isNaN(number(b))
        ? isNaN(number(a)) - isNaN(number(b)) || text(a).localeCompare(text(b)) * (up ? 1 : -1)
        : (number(a) - number(b)) * (up ? 1 : -1);
      body.append(...[...body.rows].sort(order));
    };
  });
}
"""

_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"
)
"""Lets a browser run the script above and no other, and fetch nothing."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
