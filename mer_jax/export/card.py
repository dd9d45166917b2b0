"""The model card of an export: data, protocol, scores with intervals, limits, what it is for and what not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SCORES = {"uf1": "UF1", "uar": "UAR", "acc": "accuracy", "wf1": "weighted F1", "f1_binary": "F1 of the present class"}


def text(
    facts: Mapping[str, Any], settings: Any, metrics: Mapping[str, Any] | None, manifest: Mapping[str, Any]
) -> str:
    """The card as Markdown.

    Args:
      facts: content of network.json.
      settings: of the run.
      metrics: content of metrics.json; None where the run was not scored.
      manifest: content of manifest.json, without absolute paths.
    """
    what = "action units" if facts["task"] == "au" else "micro-expressions"
    parts = [
        f"# {facts['system']}: {what}",
        f"Made by mer_jax {facts['mer_jax']} with jax {facts['jax']}. Runs on {', '.join(facts['platforms'])}.",
        "## What goes in and what comes out",
        _table(["input", "shape", "type", "meaning"], _inputs(facts)),
        f"Out: {facts['output']}, in the order {', '.join(facts['classes'])}. b (clips) and t (frames) are free.",
        _code(facts),
        "### Before the network",
        _table(["setting", "value"], [[k, f"`{v}`"] for k, v in facts["preprocessing"].items()]),
        "## Data and protocol",
        _data(settings, metrics, manifest),
        "## Scores",
        _scores(facts, metrics),
        "## Limits",
        _bullets(_limits(facts, settings, metrics)),
        "## Intended use",
        "Research on the recognition of facial movements, with people who agreed to be recorded and know what it is "
        "for; comparison with other methods on the same protocol; teaching.",
        "## Not intended",
        "Decisions about a person: hiring, teaching grades, policing, border control, insurance, credit, medical or "
        "psychological diagnosis. Detection of lies or of hidden intentions: a movement of the face is no evidence of "
        "either. Recordings of people who did not agree.",
    ]
    return "\n\n".join(parts) + "\n"


def _inputs(facts: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"`{name}`", "[" + ", ".join(map(str, x["shape"])) + "]", x["dtype"], x["meaning"]]
        for name, x in facts["inputs"].items()
    ]


def _code(facts: Mapping[str, Any]) -> str:
    """Five lines that run the network with jax and numpy alone, on blank clips."""
    blank = ", ".join(
        f'"{name}": np.zeros({tuple({"b": 2, "t": 30}.get(n, n) for n in x["shape"])}, "{x["dtype"]}")'
        for name, x in facts["inputs"].items()
    )
    lines = [
        "import jax, numpy as np",
        "",
        'network = jax.export.deserialize(bytearray(open("network.stablehlo", "rb").read()))',
        f"clips = {{{blank}}}",
        "probabilities = np.asarray(network.call(clips))",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _data(settings: Any, metrics: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> str:
    data, rows = settings.data, []
    if manifest.get("imported"):
        rows.append(["weights", f"imported from {manifest['imported']['file']}; the persons behind them are unknown"])
    rows += [["data", data.name], ["label set", data.labels], ["protocol", data.protocol]]
    if settings.pre.objective != "none":
        rows.append(["pre-training", f"{settings.pre.objective} on {data.macro}"])
    elif settings.init_from:
        rows.append(["pre-training", "weights of another run (init_from)"])
    if metrics:
        rows += [
            ["scored", f"{metrics['n']} clips of {metrics['persons']} persons"],
            ["epoch chosen by", f"{metrics['select']}" + ("" if metrics["comparable"] else " (NOT comparable)")],
            ["inputs taken from annotations", metrics["oracle_inputs"]],
        ]
    fingerprints = manifest.get("fingerprints") or {}
    rows += [[f"fingerprint ({name})", f"`{value[:16]}…`"] for name, value in fingerprints.items()]
    return _table(["", ""], [[str(a), str(b)] for a, b in rows])


def _scores(facts: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return "None: this network was not scored by mer_jax on any data."
    rows = []
    for name, score in metrics["overall"].items():
        if isinstance(score, Mapping) and "mean" in score:
            interval = f"{_number(score.get('low'))} to {_number(score.get('high'))}"
            rows.append([_SCORES.get(name, name), _number(score["mean"]), interval])
    parts = [_table(["all clips", "mean over seeds", "95 % interval (bootstrap over persons)"], rows)]
    classes = [
        [name, *(_number(one.get(k)) for k in ("precision", "recall", "f1")), str(one.get("support", ""))]
        for name, one in (metrics.get("per_class") or {}).items()
        if isinstance(one, Mapping)
    ]
    if classes:
        parts.append(_table(["class", "precision", "recall", "F1", "clips"], classes))
    if len(facts["folds"]) > 1:
        parts.append(
            f"These are scores of single folds on persons that they did not learn from. This file averages "
            f"{len(facts['folds'])} folds; that mean was not scored, since each person was learnt from in most of them."
        )
    else:
        parts.append(f"These are scores of all folds of the run; this file holds one of them ({facts['folds'][0]}).")
    parts += [f"Note: {note}" for note in metrics.get("notes") or ()]
    return "\n\n".join(parts)


def _limits(facts: Mapping[str, Any], settings: Any, metrics: Mapping[str, Any] | None) -> list[str]:
    found = []
    if "synthetic" in settings.data.name:
        found.append("Trained and scored on procedurally rendered faces: nothing here says how it does on real ones.")
    else:
        found.append("Scores are those of laboratory recordings; other cameras, light, poses and people may differ.")
    if facts["task"] != "au" and "neutral" not in facts["classes"]:
        found.append("There is no neutral class: probabilities assume an expression.")
    reads = facts["preprocessing"]["oracle_inputs"]
    if reads != "none":
        found.append(
            f"Scores were measured with annotated key frames ({reads}); in use somebody has to find them, and a "
            "spotted apex costs accuracy (eval.apex=spotted measures how much)."
        )
    found.append("Frames have to be cut out, aligned and timed as in training (table above); nothing checks it.")
    found.append("Not examined: differences between groups of people (age, sex, skin, glasses, beards).")
    if metrics and metrics["persons"] < 30:
        found.append(f"Only {metrics['persons']} persons: see the width of the intervals.")
    return found


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "unknown"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
