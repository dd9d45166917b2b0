"""A run from data to report: the story of mer_jax, top to bottom. Each part is skipped where it is finished already."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

from mer_jax import ablation, plan, prepare, pretraining, rescore, stages, systems
from mer_jax.analysis import report
from mer_jax.data import prepared
from mer_jax.data.time_scale import TimeScale
from mer_jax.errors import Preempted, UserError
from mer_jax.evaluation import measures, protocols, results, scores
from mer_jax.evaluation.table import format_table
from mer_jax.settings import Settings
from mer_jax.training import mesh
from mer_jax.training.monitor import Monitor
from mer_jax.workdir import Workdir


def run(
    config: Any, workdir: Path, plan_only: bool = False, preemption: mesh.Preemption | None = None
) -> dict[str, Any]:
    """Runs a config in a workdir.

    Args:
      config: a ConfigDict as in `configs/`.
      workdir: absolute folder of this run.
      plan_only: print what would be done, and train nothing.
      preemption: the one of this process; made where it is not given.

    Returns:
      The content of `metrics.json`; empty where nothing was scored.

    Raises:
      UserError, NonFiniteError, Preempted: see `errors`.
    """
    preemption = preemption or mesh.Preemption()
    if config["ablation"]:
        return ablation.run_rows(config, workdir, partial(run, plan_only=plan_only, preemption=preemption), plan_only)
    settings = Settings({k: v for k, v in config.to_dict().items() if k not in ("ablation", "rows", "row_names")})
    _check(settings)

    micro = prepare.micro(settings)
    if settings.task == "au" and not settings.data.action_units:
        units = tuple(int(name.removeprefix("AU")) for name in micro.labelled.classes)
        settings = settings.replace(data=settings.data.replace(action_units=units))
    pretrained = settings.pre.objective != "none" and not settings.init_from
    macro = prepare.macro(settings, micro) if pretrained else None
    if preemption.reached():
        raise Preempted("stopped before training; run the same command again")
    system = systems.build(settings, len(micro.labelled.classes), len(macro.classes) if macro else 0)
    stages.fold_settings(settings, micro, settings.seeds[0])  # says what does not fit before hours of pre-training
    prepared.magnification(settings)
    rescore.check(settings, system)
    if plan_only:
        print("\n".join(_header(micro)))
        plan.show(settings, system, micro, macro)
        return {}

    place = Workdir(workdir, settings.seeds)
    place.claim(settings.to_dict())
    split_hash = protocols.split_hash(settings.data.protocol, micro.folds, micro.table)
    place.manifest(
        **_facts(micro, macro), split_hash=split_hash, seeds=list(settings.seeds), classes=micro.labelled.classes
    )
    monitor = Monitor(workdir, writer=mesh.is_writer())
    try:
        for line in _header(micro):
            monitor.say(line)
        if macro is not None and settings.stages in ("all", "pretrain"):
            for seed in settings.seeds[:1] if settings.pre.share else settings.seeds:
                pretraining.run_pretraining(settings, system, macro, place, seed, monitor, preemption)
        if settings.stages == "pretrain":
            monitor.say(f"pre-training is in {workdir / 'checkpoints'}")
            return {}

        store = stages.micro_store(settings, system, micro)
        parts = []
        for seed in settings.seeds:
            previous = stages.initial_weights(settings, system, micro, store, place, seed, monitor)
            parts.append(stages.run_folds(settings, system, micro, store, previous, place, seed, monitor, preemption))
        metrics = _score(settings, system, micro, macro, [p.clips for p in parts], place, measured=parts)
        apex = settings.eval.apex
        if apex != rescore.ANNOTATED:
            again = [rescore.predict_again(settings, system, micro, store, place, s, apex) for s in settings.seeds]
            metrics = _score(settings, system, micro, macro, again, place, apex)
            print(format_table(metrics) if mesh.is_writer() else "", end="", flush=True)
            return metrics
        if mesh.is_writer():
            stages.write_panels(settings, system, micro, macro, store, place)
            page = report.write_report(workdir)
            print(format_table(metrics))
            print(f"report: {page}", flush=True)
        mesh.barrier("report")
        return metrics
    finally:
        monitor.close()


def _check(settings: Any) -> None:
    """Refuses what no later part would refuse by name."""
    if not settings.seeds:
        raise UserError('seeds is empty; expected at least one, as in --config.seeds="(0,)"')
    known = {
        "stages": ("all", "pretrain", "finetune"),
        "select": ("last", "inner", "oracle"),
        "task": ("emotion", "au"),
    }
    known |= {"data.fit": ("crop", "pad", "stretch"), "data.extent": ("whole", "onset_offset")}
    known |= {"engine.dtype": ("float32", "bfloat16"), "data.normalise": ("imagenet", "signed", "unit")}
    for field, words in known.items():
        value = reduce(getattr, field.split("."), settings)
        if value not in words:
            raise UserError(f"{field} is {value!r}; expected one of {', '.join(words)}")
    if settings.task == "au" and settings.ft.sampler == "balanced":
        raise UserError("ft.sampler=balanced needs one class a clip; task is au. Use ft.sampler=permutation")


def _facts(micro: prepare.Micro, macro: prepare.Macro | None) -> dict[str, Any]:
    """What the manifest says of the data."""
    facts: dict[str, Any] = {"fingerprints": {"scored": micro.source.fingerprint}}
    scale = TimeScale.of_table(micro.table)
    if scale is not None:  # what recordings are cut into, where the data are not at hand
        facts["time_scale"] = dataclasses.asdict(scale)
    if macro is not None:
        facts["fingerprints"]["pretrained"] = macro.source.fingerprint
        facts["pretraining"] = {
            "clips": len(macro.train),
            "persons": len(macro.persons),
            "held_out_clips": len(macro.held_out),
            "excluded_clips_of_tested_persons": macro.excluded,
        }
    return facts


def _header(micro: prepare.Micro) -> list[str]:
    """What is scored, and where that differs from what was published."""
    counts = ", ".join(
        f"{name} {sum(c[i] for c in micro.labelled.counts.values())}" for i, name in enumerate(micro.labelled.classes)
    )
    persons = len(set(micro.table.person.tolist()))
    lines = [f"scored: {len(micro.rows)} clips of {persons} persons, {len(micro.folds)} folds; {counts}"]
    lines += [f"left out: {n} clips: {reason}" for reason, n in micro.labelled.exclusion_counts().items()]
    return lines + [f"counts differ: {line}" for line in micro.labelled.differences]


def _score(
    settings: Any,
    system: Any,
    micro: prepare.Micro,
    macro: prepare.Macro | None,
    parts: list[Any],
    place: Workdir,
    apex: str = rescore.ANNOTATED,
    measured: Sequence[measures.Measures] = (),
) -> dict[str, Any]:
    """Writes splits, predictions and metrics; every clip is scored once a seed.

    With another apex than the annotated one the files are `predictions-apex-<word>.csv` and `metrics-apex-<word>.json`.
    """
    predictions = results.concatenate(parts)
    protocols.check_predictions(predictions, micro.folds, micro.table)
    split_hash = protocols.split_hash(settings.data.protocol, micro.folds, micro.table)
    sources = micro.table["apex_source"].tolist()
    notes = []
    pretrained = settings.init_from or system.pretrain is not None
    if pretrained and stages.shares_pretraining(settings, place):
        notes.append("seeds share a pre-training: their spread does not contain that of pre-training")
    if settings.init_from and stages.imported(settings.init_from):
        notes.append(f"init_from: {stages.UNKNOWN_PERSONS}")
    if macro is not None and macro.excluded:
        notes.append(f"{macro.excluded} macro clips of tested persons were left out of pre-training")
    suffix, oracle_inputs = "", system.oracle_inputs
    if apex != rescore.ANNOTATED:
        suffix = f"-apex-{apex.replace(':', '')}ms" if apex.startswith("jitter") else f"-apex-{apex}"
        oracle_inputs = "boundaries" if apex in ("middle", "spotted") else oracle_inputs
        notes.append(f"scored again with eval.apex={apex}; trained with the annotated apex")
    metrics = scores.summarise(
        predictions,
        select=settings.select,
        oracle_inputs=oracle_inputs,
        protocol=settings.data.protocol,
        label_set=settings.data.labels,
        split_hash=split_hash,
        apex_source={s: sources.count(s) for s in sorted(set(sources))},
        count_differences=micro.labelled.differences,
        notes=notes,
    )
    if measured and measured[0].values:
        metrics["measures"] = measures.summarise(measured)
    if mesh.is_writer():
        protocols.write_splits(place.root / "splits.csv", settings.data.protocol, micro.folds, micro.table)
        if "measures" in metrics:
            measures.write_measures(place.root / "measures.csv", measured)
        results.write_predictions(place.root / f"predictions{suffix}.csv", predictions)
        results.write_metrics(place.root / f"metrics{suffix}.json", metrics)
    return metrics
