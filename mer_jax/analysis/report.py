"""`report.html` and `figures/`: a finished run on one page that opens anywhere, offline.

Everything is inside the file: pictures as data, style and text. It names no absolute path, reads on a telephone and
on a wide screen, and says first what a reader must know before comparing numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.analysis import comparison_figures, figures, pictures
from mer_jax.analysis.feature_figures import features_section
from mer_jax.analysis.map_figures import maps_section
from mer_jax.analysis.map_scores import MAPS, SCORES, read_scores
from mer_jax.analysis.open_run import FEATURES, Curve, Run, open_run
from mer_jax.analysis.page import TITLES, Page, escape, number_cell, score_cell, short, slug, table
from mer_jax.analysis.published_table import published_results
from mer_jax.data.pairs import COUNTERS
from mer_jax.evaluation import calibration
from mer_jax.evaluation.scores import ORACLE_BRAND, person_scores
from mer_jax.files import atomic_open, path_of

HEALTH = ("R", "R_shuf", "R_null", "R_linear", "R_linear_code")
_HEALTH_CHART = "R on held-out pairs"
_CAPTIONS = {
    _HEALTH_CHART: "1 is perfect, 0 as good as copying the input. R_shuf (the actions of other pairs) has to lie below "
    "0 and R_null (no difference image) near it; a linear model of the difference image is the bar for R"
}
_TRAINING = {
    "pretrain": "Each quantity over the steps.",
    "finetune": "Each fold faintly, the median of the folds strongly; all folds train for the same number of steps.",
}
BOOKKEEPING = ("weight", "waiting_for_data")  # logged, but no curve to look at
CHARTS = 8  # quantities shown for a stage; the others are in log.jsonl


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` and `figures/*.png` from what a run left in its workdir; can be repeated at any time.

    Returns:
      Path of the report.

    Raises:
      UserError: see `open_run`.
    """
    workdir = path_of(workdir)
    run = open_run(workdir)
    page = Page(workdir / "figures")
    _head(page, run)
    if run.metrics is not None:
        _scores(page, run.metrics, run)
        _calibration(page, run)
        brand = "" if run.metrics["comparable"] is not False else " — not comparable"
        published_results(page, {run.name + brand: run.metrics})
    _training(page, run)
    _pictures(page, run)
    _looked_at(page, run)
    _settings(page, run)
    path = workdir / "report.html"
    with atomic_open(path) as file:
        file.write(page.text(f"{run.name}: micro-expression recognition"))
    return path


def _head(page: Page, run: Run) -> None:
    page.add(f"<h1>{escape(run.name)}</h1>")
    metrics = run.metrics
    if metrics is None:
        page.add('<p class="facts">This run has not been scored.</p>')
        return
    if not metrics["comparable"]:
        page.add(f'<p class="warn"><strong>{escape(ORACLE_BRAND)}</strong></p>')
    for line in metrics.get("count_differences") or ():
        page.add(f'<p class="warn">Counts differ from the published ones: {escape(line)}</p>')
    seeds = len(metrics.get("per_seed") or ())
    facts = [
        run.config.get("system"), metrics.get("protocol"), metrics.get("label_set"), f"{metrics['n']} clips",
        f"{metrics['persons']} persons" if "persons" in metrics else None, f"{len(metrics['classes'])} classes",
        f"{seeds} seed{'s' if seeds != 1 else ''}",
    ]  # fmt: skip
    page.add(f'<p class="facts">{escape(", ".join(str(fact) for fact in facts if fact))}</p>')
    page.add(
        f"<p>Epoch chosen by <strong>select = {escape(metrics['select'])}</strong>; annotations seen at test time: "
        f"<strong>oracle_inputs = {escape(metrics['oracle_inputs'])}</strong>{_apex(metrics)}.</p>"
    )


def _apex(metrics: Mapping[str, Any]) -> str:
    counts = metrics.get("apex_source") or {}
    return escape(" (apex " + ", ".join(f"{name}: {n}" for name, n in counts.items()) + ")") if counts else ""


def _scores(page: Page, metrics: Mapping[str, Any], run: Run) -> None:
    page.heading("Scores")
    brand = "" if metrics["comparable"] else " — not comparable"
    names = list(metrics["overall"])
    seeds = len(metrics.get("per_seed") or [1])
    several = seeds > 1
    rows = [[f"all clips{brand}", str(metrics["n"]), *(score_cell(metrics["overall"][n], several) for n in names)]]
    parts = metrics.get("per_dataset") or {}
    if len(parts) > 1:
        rows += [
            [f"{d}{brand}", str(part["n"]), *(score_cell(part[n], several) for n in names)] for d, part in parts.items()
        ]
    if "dataset_average" in metrics:
        average = metrics["dataset_average"]
        rows.append([f"mean of datasets{brand}", "", *(score_cell(average[n], False) for n in names)])
    for name, row in (metrics.get("baselines") or {}).items():
        rows.append([f"baseline: {name}", "", *(score_cell(row[n], False) if n in row else "" for n in names)])
    if several:
        for seed, row in metrics["per_seed"].items():
            rows.append([f"seed {seed}{brand}", "", *(score_cell(row[n], False) for n in names)])
    page.add(table(["", "clips", *(TITLES.get(n, n) for n in names)], rows))
    page.add(f"<p class='facts'>{escape(_interval_note(metrics, several))}</p>")
    page.add(*(f"<p>{escape(note)}</p>" for note in metrics.get("notes") or () if note != ORACLE_BRAND))
    if "per_au" in metrics:
        picture = page.figure(
            "action_units", figures.action_units(metrics["per_au"]),
            "F1 of every action unit; the diamond is a predictor that always says present",
        )  # fmt: skip
        page.heading("Action units")
    else:
        page.heading("Classes")
        picture = page.figure(
            "confusion", figures.confusion(metrics["confusion"], metrics["classes"], seeds),
            "Confusion matrix over all folds; each clip is tested once" + (" a seed" if several else ""),
        )  # fmt: skip
    details = metrics.get("per_au") or metrics.get("per_class") or {}
    columns = [c for c in next(iter(details.values()), {}) if not c.startswith("all_")]
    body = [[name, *(number_cell(row[c]) for c in columns)] for name, row in details.items()]
    page.add(f'<div class="two">{picture}<div>{table(["", *(TITLES.get(c, c) for c in columns)], body)}</div></div>')
    if metrics.get("measures"):
        _measures(page, metrics["measures"], several)
    if run.predictions is not None:
        people = person_scores(run.predictions)
        page.heading("Persons")
        parts = figures.persons(people)
        pictures = [page.figure(f"persons_{i}", part, "") for i, part in enumerate(parts, start=1)]
        page.add(
            "<p>Share of right answers of every test person, best first; the dot grows with the number of clips. "
            "Persons with few clips scatter widely by chance alone.</p>",
            f'<div class="two">{"".join(pictures)}</div>',
        )


def _calibration(page: Page, run: Run) -> None:
    """Whether the probabilities mean what they say."""
    found = calibration.calibration(run.predictions) if run.predictions is not None else None
    if found is None or run.predictions is None:
        return
    page.heading("Calibration")
    picture = page.figure(
        "calibration", comparison_figures.reliability(found, run.predictions.task),
        "Below the diagonal the probabilities promise too much",
    )  # fmt: skip
    spread = f"<small>± {short(found.ece_std)}</small>" if len(run.predictions.seeds) > 1 else ""
    upper = f"{found.ece_if_calibrated:.3f}<small>up to {short(found.ece_if_calibrated_high)}</small>"
    rows = [
        [f"ECE, {len(found.n)} bins of equal mass", f"{found.ece:.3f}{spread}"],
        ["ECE of a calibrated system", upper],
        [f"ECE, {calibration.EQUAL_WIDTH_BINS} bins of equal width", f"{found.ece_equal_width:.3f}"],
        ["mean probability − share right", f"{found.excess:+.3f}"],
    ]
    text = (
        "ECE, the expected calibration error, is the mean distance between probability and share of right answers, by "
        "bins. On so few clips it is never 0: a perfectly calibrated system with the same probabilities would get the "
        "second row."
    )
    page.add(f'<div class="two">{picture}<div>{table(["", ""], rows)}<p>{text}</p></div></div>')


def _interval_note(metrics: Mapping[str, Any], several: bool) -> str:
    boot = metrics.get("bootstrap")
    text = "± is the standard deviation over seeds. " if several else ""
    if boot:
        text += (
            f"[low, high] is a {boot['level']:.0%} interval from a bootstrap over persons, {boot['replicates']} "
            f"resamples; {boot['incomplete']} of them lack a class and average over the present ones."
        )
    return text


def _training(page: Page, run: Run) -> None:
    for stage, title in (("pretrain", "Pre-training"), ("finetune", "Fine-tuning")):
        charts = _charts(run.curves(stage), run.health if stage == "pretrain" else {})
        if not charts:
            continue
        page.heading(title)
        made = [
            page.figure(f"{stage}_{slug(name)}", figures.curves(name, chart), _CAPTIONS.get(name, ""))
            for name, chart in charts.items()
        ]
        page.add(f"<p>{escape(_TRAINING[stage])}</p>", f'<div class="two">{"".join(made)}</div>')
        if stage == "pretrain":
            _pairs(page, run)


def _pairs(page: Page, run: Run) -> None:
    """The pretext on held-out people, and what happened to the frame pairs."""
    waits = [curve.value for curve in run.curves("pretrain").get("waiting_for_data", ())]
    if waits:
        page.add(f"<p>Share of the time spent waiting for data: {np.nanmean(np.concatenate(waits)):.1%}.</p>")
    if not run.health:
        return
    seeds, found = [f"seed {seed}" for seed in run.health], list(run.health.values())
    names = [name for name in HEALTH if any(name in scores for scores in found)]
    rows = [[name, *(f"{scores[name]:.3f}" if name in scores else "" for scores in found)] for name in names]
    left = "<p>On held-out people, at the end:</p>" + table(["", *seeds], rows)
    tallies = [scores.get("pairs") or {} for scores in found]
    rows = [[name.replace("_", " "), *(f"{tally.get(name, 0)}" for tally in tallies)] for name in COUNTERS]
    right = (
        "<p>Frame pairs since the last start of the run: delivered, tried, rejected by reason, given up (weight 0), "
        "and those whose landmarks are unknown, so that head movement was not tested:</p>"
    ) + table(["", *seeds], rows)
    page.add(f'<div class="two"><div>{left}</div><div>{right if any(tallies) else ""}</div></div>')


def _charts(
    quantities: Mapping[str, list[Curve]], health: Mapping[int, Mapping[str, Any]]
) -> dict[str, dict[str, list[Curve]]]:
    """Loss first, then the health scores in one chart, then the rest by name."""
    scores = {name: quantities[name] for name in HEALTH if name in quantities}
    steps = next(iter(scores.values()))[0].step[[0, -1]] if scores else np.zeros(2)
    for name in HEALTH if scores else ():
        if name not in scores:  # known at the end only: a level to compare with
            levels = [Curve(seed, None, steps, np.full(2, float(h[name]))) for seed, h in health.items() if name in h]
            scores |= {name: levels} if levels else {}
    known = (*scores, "loss", *BOOKKEEPING, *(name for name in quantities if _equals_loss(quantities, name)))
    rest = {name: {name: quantities[name]} for name in sorted(quantities) if name not in known}
    first = {"loss": {"loss": quantities["loss"]}} if "loss" in quantities else {}
    charts = first | ({_HEALTH_CHART: scores} if scores else {}) | rest
    return dict(list(charts.items())[:CHARTS])


def _equals_loss(quantities: Mapping[str, list[Curve]], name: str) -> bool:
    """Whether a term is all there is of the loss: one chart shows both."""
    pairs = list(zip(quantities[name], quantities.get("loss", ()), strict=False))
    return bool(pairs) and all(np.array_equal(term.value, loss.value, equal_nan=True) for term, loss in pairs)


def _pictures(page: Page, run: Run) -> None:
    drawn_by = pictures.of(str(run.config.get("system")))
    for picture in drawn_by.pictures(run.panels) if drawn_by and run.panels else ():
        if picture.name == "heat_maps" and (run.workdir / MAPS).exists():
            continue  # `--maps` shows the same, beside what it has to be compared with
        page.heading(picture.heading)
        image = page.figure(picture.name, picture.figure, picture.caption, picture.wide)
        page.add(image if picture.wide else f'<div class="two">{image}</div>')
        if picture.text:
            page.add(f"<p>{escape(picture.text)}</p>")


def _looked_at(page: Page, run: Run) -> None:
    """What `--maps` and `--features` found, where they were asked for."""
    maps, scores, features = (run.workdir / name for name in (MAPS, SCORES, FEATURES))
    if maps.exists() and scores.exists():
        with maps.open("rb") as content, np.load(content, allow_pickle=False) as file:
            maps_section(page, {name: file[name] for name in file.files}, read_scores(scores))
    if features.exists() and run.metrics is not None:
        with features.open("rb") as content, np.load(content, allow_pickle=False) as file:
            features_section(page, {name: file[name] for name in file.files}, run.metrics["classes"])


def _measures(page: Page, summary: Mapping[str, Mapping[str, Any]], several: bool) -> None:
    """What the system is scored by beside the classes."""
    page.heading("Measures")
    rows = [
        [name, str(row["n"]), _plain(row, several) if row["mean"] is not None else "unknown"]
        for name, row in summary.items()
    ]
    page.add(
        "<p>Means over the test clips in which a measure is known; the interval is over persons.</p>",
        table(["", "clips", "mean"], rows),
    )


def _plain(row: Mapping[str, Any], several: bool) -> str:
    spread = f"<small>± {row['std']:.2g}</small>" if several else ""
    return f"{row['mean']:.4g}{spread}<small>[{row['low']:.4g}, {row['high']:.4g}]</small>"


def _settings(page: Page, run: Run) -> None:
    page.heading("How it was made")
    if run.metrics is not None and run.metrics.get("split_hash"):
        page.add(f"<p>Hash of the splits: <code>{escape(run.metrics['split_hash'])}</code></p>")
    for title, content in (("config.json", run.config), ("manifest.json", run.manifest)):
        if content:
            text = escape(json.dumps(content, indent=1, ensure_ascii=False))
            page.add(f"<details><summary>{title}</summary><pre>{text}</pre></details>")
