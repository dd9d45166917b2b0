"""Published results of the same clips as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mer_jax.analysis.page import TITLES, Page, escape, table
from mer_jax.evaluation.published import METRICS, Published, beside

_TITLES = dict(TITLES) | {"f1": "F1 (average unknown)", "f1_binary_datasets": "F1 (present), mean of datasets"}
_NOTE = (
    "Numbers as their sources print them, shown because label map, protocol and the number of clips of every class are "
    "those of this run. They are no ranking: preprocessing, annotations used at test time and above all the choice of "
    "the epoch differ. “yes” means that the code chose it on the test persons, “unknown” that nobody looked."
)


def published_results(page: Page, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds the published results that may stand beside runs over the same clips; nothing where there are none.

    Args:
      page: the page.
      runs: name -> content of metrics.json.
    """
    first = next(iter(runs.values()))
    found = beside(first)
    if not found.parts and not found.other_counts:
        return
    page.heading("Published results")
    if found.parts:
        page.add(f"<p>{escape(_NOTE)}</p>")
    for part, rows in found.parts.items():
        title = f"{part or 'all clips'}: {rows[0].n} clips"
        body = _rows(rows, {name: _own(metrics, part) for name, metrics in runs.items()})
        opened = " open" if not part or len(found.parts) == 1 else ""
        page.add(f"<details{opened}><summary>{escape(title)}</summary>{body}</details>")
    if found.other_counts:
        systems = sorted({row.system for row in found.other_counts})
        named = ", ".join(systems[:4]) + (", ..." if len(systems) > 4 else "")
        page.add(
            f'<p class="facts">Not shown: {len(found.other_counts)} published results with this label set and protocol '
            f"whose number of clips differs or is unknown ({escape(named)}).</p>"
        )


def _own(metrics: Mapping[str, Any], part: str) -> dict[str, float]:
    scores = metrics["per_dataset"][part] if part else metrics["overall"]
    own = {name: scores[name]["mean"] for name in METRICS if name in scores}
    if not part and "f1_binary" in metrics.get("dataset_average", {}):
        own["f1_binary_datasets"] = metrics["dataset_average"]["f1_binary"]["mean"]
    return own


def _rows(rows: Sequence[Published], runs: Mapping[str, Mapping[str, float]]) -> str:
    names = [name for name in METRICS if any(name in row.scores for row in rows)]
    body = [
        [name, "", *(_cell(scores.get(m), True) for m in names), "", "<strong>this page</strong>", ""]
        for name, scores in runs.items()
    ]
    for row in rows:
        cells = [_cell(row.scores.get(m)) for m in names]
        body.append([row.system, row.year, *cells, row.test_selected, escape(row.source), escape(row.note)])
    head = ["", "year", *(_TITLES.get(m, m) for m in names), "epoch from test", "source", "note"]
    return table(head, body, "words")


def _cell(value: float | None, strong: bool = False) -> str:
    text = "" if value is None else f"{value:.3f}"
    return f"<strong>{text}</strong>" if strong and text else text
