"""Several runs side by side: `comparison.html`, `comparison.csv`, `comparison.json` and a table for the terminal.

The statistics are those of `evaluation.comparison`. The page opens anywhere, offline, and names no absolute path.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mer_jax.analysis import comparison_figures
from mer_jax.analysis.open_run import Run, open_run
from mer_jax.analysis.page import TITLES, Page, escape, p_text, score_cell, short, table
from mer_jax.analysis.published_table import published_results
from mer_jax.errors import UserError
from mer_jax.evaluation import comparison
from mer_jax.evaluation.calibration import Calibration, calibration
from mer_jax.evaluation.scores import ORACLE_BRAND
from mer_jax.evaluation.table import columns
from mer_jax.files import atomic_open, write_json

DETAILS = 6  # pairs whose classes and persons are drawn; the others are in comparison.json
COLUMNS = (
    "score", "run_a", "run_b", "a", "b", "difference", "low", "high", "seed_std_a", "seed_std_b", "p", "p_holm",
    "resolvable", "persons_needed",
)  # fmt: skip
BRAND = "NOT COMPARABLE"
_METHOD = (
    "A score is computed from one confusion matrix over all folds, for each seed, and averaged over the seeds; seeds "
    "are never further samples. Difference: first run minus second.",
    "Interval: bootstrap over persons, {replicates} resamples, the same persons for both runs. With a dozen persons it "
    "is too short; the p value decides.",
    "p: sign-swap permutation. If the runs were interchangeable, swapping their predictions of a person (all clips, "
    "all seeds) would change nothing; p is the share of swaps with a difference at least as large as the observed one. "
    "All swaps are enumerated if there are at most {permutations}, else as many are drawn and the observed one is "
    "counted in. Interval and p take the trained networks as given: what other seeds would give, the s.d. over seeds "
    "tells.",
    "Holm: p corrected for the number of pairs, each score by itself. {primary} decides; the other scores, the classes "
    "and the persons are there to understand it.",
    "Resolvable: the true difference that a test at {alpha:.3g} / {pairs} finds with a probability of {power:.0%}, "
    "(z(1 − α/2) + z(power)) × s.d. of the bootstrapped difference. Persons needed: how many persons like these would "
    "resolve the difference that was seen, if it were the true one.",
    "McNemar: exact binomial test on the clips that only one of two seeds has right, seed by seed in their order; it "
    "{assumes}, and rejects too often where the clips of a person are alike.",
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was written.

    Attributes:
      page: path of comparison.html.
      result: content of comparison.json.
      text: the table for the terminal.
    """

    page: Path
    result: dict[str, Any]
    text: str


def compare_runs(
    workdirs: Sequence[Path | str], out: Path | str, options: comparison.Options | None = None
) -> Comparison:
    """Compares finished runs and writes comparison.html, .csv, .json and figures/ into `out`.

    Args:
      workdirs: of at least two runs over the same splits.
      out: folder, made where it is missing.
      options: of the statistics.

    Raises:
      UserError: a run that is not scored, or runs that cannot be compared, with the reason.
    """
    out, options = Path(out).expanduser().resolve(), options or comparison.Options()
    paths = [Path(workdir).expanduser().resolve() for workdir in workdirs]
    runs = dict(zip(_names(paths), map(open_run, paths), strict=True))
    contenders = []
    for (name, run), path in zip(runs.items(), paths, strict=True):
        if run.metrics is None or run.predictions is None:
            raise UserError(f"{path}: found no metrics.json and predictions.csv; expected a run that is scored")
        contenders.append(comparison.Contender(name, run.predictions, run.metrics))
    found = comparison.compare(contenders, options)
    reliable = {c.name: calibration(c.predictions) for c in contenders}
    result = {
        **{key: value for key, value in found.items() if key != "pairs"},
        "comparable": all(c.facts["comparable"] is not False for c in contenders),
        "notes": _notes(found, runs),
        "runs": {c.name: _facts(runs[c.name], reliable[c.name]) for c in contenders},
        "pairs": found["pairs"],
    }
    for pair in result["pairs"]:
        pair["verdict"] = _verdict(result, pair)
    write_json(out / "comparison.json", result)
    _write_csv(out / "comparison.csv", result)
    page = _page(Page(out / "figures"), result, runs)
    with atomic_open(out / "comparison.html") as file:
        file.write(page.text("Comparison of " + ", ".join(runs)))
    return Comparison(out / "comparison.html", result, _text(result))


def _names(paths: Sequence[Path]) -> list[str]:
    """Last parts of the paths, as many as tell them apart; a path that is given twice is numbered."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    names = ["/".join(part for part in path.parts[-depth:] if part != path.anchor) for path in paths]
    return [f"{name} ({names[: k + 1].count(name)})" if names.count(name) > 1 else name for k, name in enumerate(names)]


def _facts(run: Run, found: Calibration | None) -> dict[str, Any]:
    """What comparison.json says of a run."""
    assert run.metrics is not None
    keys = ("select", "comparable", "oracle_inputs", "overall")
    seeds = list(run.predictions.seeds) if run.predictions is not None else []
    return {
        "system": run.config.get("system"),
        "seeds": seeds,
        **{key: run.metrics[key] for key in keys},
        "ece": None if found is None else found.ece,
    }


def _notes(found: Mapping[str, Any], runs: Mapping[str, Run]) -> list[str]:
    """What a reader must know before the numbers."""
    notes = [f"{name}: {ORACLE_BRAND}" for name, run in runs.items() if (run.metrics or {})["comparable"] is False]
    for key, text in (
        ("oracle_inputs", "the runs see different annotations at test time"),
        ("select", "the runs choose their epoch differently"),
    ):
        values = {name: str((run.metrics or {})[key]) for name, run in runs.items()}
        if len(set(values.values())) > 1:
            notes.append(f"{text}: " + ", ".join(f"{name} {key}={value}" for name, value in values.items()))
    prints = {str((run.manifest.get("fingerprints") or {}).get("scored")) for run in runs.values()} - {"None"}
    if len(prints) > 1:
        notes.append("the runs read different builds of the scored dataset")
    seeds = {name: len(run.predictions.seeds) if run.predictions else 0 for name, run in runs.items()}
    if len(set(seeds.values())) > 1:
        counted = ", ".join(f"{name} {n}" for name, n in seeds.items())
        notes.append(f"the numbers of seeds differ ({counted}): a mean over fewer varies more, and p is approximate")
    if 1 in seeds.values():
        notes.append("a run of one seed does not tell how much another training would differ")
    said = {
        name: [n for n in (run.metrics or {}).get("notes") or () if n != ORACLE_BRAND] for name, run in runs.items()
    }
    for note in dict.fromkeys(note for own in said.values() for note in own):
        names = [name for name, own in said.items() if note in own]
        notes.append(note if len(names) == len(runs) else f"{', '.join(names)}: {note}")
    for pair in found["pairs"]:
        swaps, both = pair["permutation"], f"{pair['a']} and {pair['b']}"
        if not swaps["persons_that_differ"]:
            notes.append(f"{both} predict every person alike")
        elif swaps["smallest_p"] * len(found["pairs"]) > 1 - found["options"]["level"]:
            notes.append(
                f"{both} differ on {swaps['persons_that_differ']} persons only: p cannot be below "
                f"{swaps['smallest_p']:.2g}"
            )
    return notes


def _verdict(result: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """One sentence a pair."""
    row, score, level = pair["scores"][result["primary"]], _title(result["primary"]), result["options"]["level"]
    if not pair["permutation"]["persons_that_differ"]:
        return f"{pair['a']} and {pair['b']} predict alike: their {score} is the same."
    p = row["p"] if row["p_holm"] is None else row["p_holm"]
    way = "higher" if row["difference"] >= 0 else "lower"
    text = (
        f"{score} of {pair['a']} is {abs(row['difference']):.3f} {way} than that of {pair['b']} "
        f"({level:.0%} interval {row['low']:+.3f} to {row['high']:+.3f}, p = {p_text(p)}"
        + (", Holm)" if row["p_holm"] is not None else ")")
    )
    if p <= 1 - level + 1e-12:
        return f"{text}: more than chance over persons can explain."
    return (
        f"{text}: chance over persons can explain it. {result['persons']} persons resolve differences from "
        f"{row['resolvable']:.3f} on."
    )


def _title(score: str) -> str:
    return TITLES.get(score, score)


# --- Table and CSV ---------------------------------------------------------------------------------------------------


def _write_csv(path: Path, result: Mapping[str, Any]) -> None:
    """One row a pair and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in result["pairs"]:
        for score, row in pair["scores"].items():
            cells = [row[name] for name in COLUMNS[3:]]
            numbers = ["" if v is None else f"{v:.6g}" for v in cells]
            writer.writerow([score, pair["a"], pair["b"], *numbers])
    with atomic_open(path) as file:
        file.write(text.getvalue())


def _text(result: Mapping[str, Any]) -> str:
    """The comparison for the terminal."""
    lines = [f"*** {note} ***" if ORACLE_BRAND in note else f"note: {note}" for note in result["notes"]]
    lines.append(_facts_line(result))
    several = len(result["pairs"]) > 1
    level = f"{result['options']['level']:.0%}"
    head = ["a - b", "score", "a", "b", f"difference [{level}]", "seed s.d.", "p", *(["Holm"] if several else [])]
    rows = [[*head, "resolvable"]]
    for pair in result["pairs"]:
        for score, row in pair["scores"].items():
            cells = [
                f"{pair['a']} - {pair['b']}" + ("" if result["comparable"] else f" ({BRAND})"), _title(score),
                f"{row['a']:.4f}", f"{row['b']:.4f}",
                f"{row['difference']:+.4f} [{row['low']:+.3f}, {row['high']:+.3f}]", _spreads(row), p_text(row["p"]),
            ]  # fmt: skip
            cells += [p_text(row["p_holm"])] if several else []
            rows.append([*cells, "" if row["resolvable"] is None else f"{row['resolvable']:.4f}"])
    lines += ["", *columns(rows), ""]
    for pair in result["pairs"]:
        tests = pair["mcnemar"]["seeds"]
        seeds = ", ".join(
            f"seeds {t['seed_a']}/{t['seed_b']}: {t['only_a']}:{t['only_b']} p {p_text(t['p'])}" for t in tests
        )
        lines.append(f"McNemar ({pair['mcnemar']['assumes']}), {pair['a']} - {pair['b']}: {seeds}")
    lines += ["", *(pair["verdict"] for pair in result["pairs"])]
    return "\n".join(lines) + "\n"


def _facts_line(result: Mapping[str, Any]) -> str:
    facts = [result["protocol"], result["label_set"], f"{result['n']} clips", f"{result['persons']} persons"]
    kind = "action units" if result["task"] == "au" else "classes"
    return ", ".join(str(fact) for fact in [*facts, f"{len(result['classes'])} {kind}"] if fact)


def _spreads(row: Mapping[str, Any]) -> str:
    spreads = [row["seed_std_a"], row["seed_std_b"]]
    return " / ".join("–" if s is None else short(s) for s in spreads)


# --- Page ------------------------------------------------------------------------------------------------------------


def _page(page: Page, result: Mapping[str, Any], runs: Mapping[str, Run]) -> Page:
    page.add(f"<h1>{escape(' · '.join(runs))}</h1>")
    for note in result["notes"]:
        kind = "warn" if ORACLE_BRAND in note or "different" in note else "facts"
        page.add(f'<p class="{kind}">{escape(note)}.</p>')
    page.add(f'<p class="facts">{escape(_facts_line(result))}</p>')
    page.add(*(f"<p>{escape(pair['verdict'])}</p>" for pair in result["pairs"][:DETAILS]))
    _runs(page, result)
    _differences(page, result)
    _details(page, result)
    _mcnemar(page, result)
    names = {name + _brand(result["runs"][name]): run.metrics or {} for name, run in runs.items()}
    published_results(page, names)
    page.heading("How it was computed")
    words = result["options"] | {
        "alpha": 1 - result["options"]["level"], "pairs": len(result["pairs"]), "primary": _title(result["primary"]),
        "assumes": result["pairs"][0]["mcnemar"]["assumes"],
    }  # fmt: skip
    page.add(*(f"<p>{escape(line.format(**words))}</p>" for line in _METHOD))
    page.add(f"<p>Hash of the splits, the same for all: <code>{escape(result['split_hash'])}</code></p>")
    return page


def _brand(run: Mapping[str, Any]) -> str:
    return " — not comparable" if run["comparable"] is False else ""


def _runs(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Runs")
    rows = []
    names = list(result["pairs"][0]["scores"])
    for name, run in result["runs"].items():
        scores = (score_cell(run["overall"][n], len(run["seeds"]) > 1) for n in names)
        ece = "" if run["ece"] is None else f"{run['ece']:.3f}"
        facts = [
            escape(run["system"] or ""),
            str(len(run["seeds"])),
            escape(run["select"]),
            escape(run["oracle_inputs"]),
        ]
        rows.append([name + _brand(run), *scores, ece, *facts])
    head = ["", *map(_title, names), "ECE", "system", "seeds", "select", "oracle_inputs"]
    page.add(table(head, rows, "names"))
    page.add('<p class="facts">± is the standard deviation over seeds, [low, high] an interval over persons.</p>')


def _differences(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Differences")
    primary, several = result["primary"], len(result["pairs"]) > 1
    picture = page.figure(
        "differences", comparison_figures.differences(result["pairs"], primary, _title(primary), result["options"]),
        "Within the grey band a true difference is missed more often than the power says",
    )  # fmt: skip
    rows = []
    for pair in result["pairs"]:
        for score, row in pair["scores"].items():
            interval = f"<small>[{short(row['low'])}, {short(row['high'])}]</small>"
            cells = [
                escape(_title(score)), f"{row['difference']:+.3f}{interval}", _spreads(row), p_text(row["p"]),
                *([p_text(row["p_holm"])] if several else []),
                "" if row["resolvable"] is None else f"{row['resolvable']:.3f}",
                "" if row["persons_needed"] is None else f"{row['persons_needed']}",
            ]  # fmt: skip
            rows.append([f"{pair['a']} − {pair['b']}" if score == primary else "", *cells])
    head = ["", "score", "difference", "seed s.d.", "p", *(["Holm"] if several else []), "resolvable", "persons needed"]
    page.add(f'<div class="two">{picture}</div>', table(head, rows, "names"))


def _details(page: Page, result: Mapping[str, Any]) -> None:
    for number, pair in enumerate(result["pairs"][:DETAILS], start=1):
        page.heading(f"{pair['a']} − {pair['b']}")
        classes = page.figure(
            f"classes_{number}", comparison_figures.class_differences(pair["per_class"], pair["a"], pair["b"]),
            "F1 of each class (number of clips), interval over persons, not corrected for the number of classes",
        )  # fmt: skip
        unit = "known action units" if result["task"] == "au" else "clips"
        parts = comparison_figures.person_differences(pair["per_person"], pair["a"], pair["b"])
        people = [
            page.figure(f"persons_{number}_{k}", part, f"Every person (number of {unit})" if k == 1 else "")
            for k, part in enumerate(parts, start=1)
        ]
        page.add(f'<div class="two">{classes}{"".join(people)}</div>', _datasets(pair, result["primary"]))
    left = len(result["pairs"]) - DETAILS
    if left > 0:
        page.add(f'<p class="facts">Classes and persons of {left} more pairs are in comparison.json.</p>')


def _datasets(pair: Mapping[str, Any], score: str) -> str:
    """The score that decides, dataset by dataset; nothing where there is one."""
    rows = [
        [
            name, str(row["n"]), str(row["persons"]), f"{row['a']:.3f}", f"{row['b']:.3f}",
            f"{row['difference']:+.3f}<small>[{short(row['low'])}, {short(row['high'])}]</small>", p_text(row["p"]),
        ]
        for name, row in pair["per_dataset"].items()
    ]  # fmt: skip
    if not rows:
        return ""
    head = [_title(score), "clips", "persons", pair["a"], pair["b"], "difference", "p, not corrected"]
    return table(head, rows)


def _mcnemar(page: Page, result: Mapping[str, Any]) -> None:
    assumes = result["pairs"][0]["mcnemar"]["assumes"]
    page.heading(f"McNemar ({assumes})")
    rows = []
    for pair in result["pairs"]:
        for test in pair["mcnemar"]["seeds"]:
            cells = [
                f"{test['seed_a']} / {test['seed_b']}",
                str(test["only_a"]),
                str(test["only_b"]),
                p_text(test["p"]),
            ]
            rows.append([f"{pair['a']} − {pair['b']}", *cells])
    page.add(table(["", "seeds", "only first right", "only second right", "p"], rows, "names"))
