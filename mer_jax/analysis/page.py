"""A page that opens anywhere, offline: style, pictures as data, tables."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.files import atomic_open

TITLES = {"acc": "accuracy", "uf1": "UF1", "uar": "UAR", "wf1": "weighted F1"} | {
    "f1": "F1", "f1_binary": "F1 (present)", "f1_macro": "F1 (macro)", "support": "clips"
}  # fmt: skip
STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1b1f23;background:#fff;margin:0}
main{max-width:1120px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.4rem 0 0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:1px solid #d0d7de}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{max-width:75ch;margin:.4rem 0}
.facts{color:#57606a}
.warn{border-left:6px solid #d55e00;background:#fff3e8;padding:.6rem .9rem;margin:1rem 0;max-width:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #e4e8ec;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid #8c959f}
td small{color:#57606a;display:block}
.names td:first-child{white-space:normal;min-width:7rem}
.words td{white-space:normal;min-width:3rem;vertical-align:top}
.words td:last-child,.words td:nth-last-child(2){text-align:left;min-width:11rem;font-size:.85em;color:#57606a}
code{overflow-wrap:anywhere}
.two{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:1rem;align-items:start}
figure{margin:0;break-inside:avoid}
figure img{display:block;width:100%;height:auto}
figcaption{color:#57606a;font-size:.9rem;margin:.2rem 0 0;max-width:85ch}
.wide img{min-width:680px;max-width:1000px}
pre{background:#f6f8fa;padding:.8rem;overflow:auto;font-size:.8rem;max-height:30rem}
summary{cursor:pointer}
@media print{main{max-width:none}h2{break-after:avoid}.scroll{overflow:visible}}
@media(max-width:600px){
main{padding:.7rem}
table{font-size:.8rem}
th,td{padding:.25rem}
td small{font-size:.68rem}
thead th,td:first-child{white-space:normal}
}
"""


class Page:
    """Collects the parts of the page and writes its figures."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._parts = directory, list[str]()

    def add(self, *parts: str) -> None:
        """Adds finished HTML."""
        self._parts += parts

    def heading(self, text: str) -> None:
        """Begins a part of the page."""
        self.add(f"<h2>{escape(text)}</h2>")

    def figure(self, name: str, figure: Figure, caption: str, wide: bool = False) -> str:
        """Writes `figures/<name>.png` and returns the same picture as HTML."""
        data = figures.png(figure)
        with atomic_open(self._directory / f"{name}.png", "wb") as file:
            file.write(data)
        encoded = base64.b64encode(data).decode("ascii")
        image = f'<img alt="{escape(caption or name)}" src="data:image/png;base64,{encoded}">'
        if wide:
            image = f'<div class="scroll wide">{image}</div>'
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f"<figure>{image}{below}</figure>"

    def text(self, title: str) -> str:
        """The whole page."""
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body><main>\n{body}\n</main></body>\n</html>\n"
        )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """An HTML table; cells are finished HTML except for the first one of a row.

    Args:
      head: texts of the header.
      rows: of as many cells.
      kind: "names" lets long names in the first column wrap, "words" the texts of all columns; the last two are notes.
    """
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    style = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{style}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def score_cell(value: Any, several: bool) -> str:
    """A score with its spread over seeds, where there are several, and its interval."""
    if not isinstance(value, Mapping):
        return f"{value:.3f}"
    text = f"{value['mean']:.3f}"
    if several:
        text += f"<small>± {short(value['std'])}</small>"
    if "low" in value:
        text += f"<small>[{short(value['low'])}, {short(value['high'])}]</small>"
    return text


def p_text(value: float) -> str:
    """A p value, with a digit more where it is small."""
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def short(value: float) -> str:
    """A number without its leading zero."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def number_cell(value: float) -> str:
    """A count, a share, or a mean count."""
    if float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()


def escape(value: Any) -> str:
    """Text as HTML."""
    return html.escape(str(value))
