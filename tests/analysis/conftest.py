"""A workdir as a scored run leaves it, small and made up: no training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mer_jax.analysis import figures, report
from mer_jax.data.clips import AU_SLOTS, ClipRecord, ClipTable
from mer_jax.evaluation import results, scores
from mer_jax.files import write_json

CLASSES = ("disgust", "happiness", "repression", "surprise", "others")


def table_of(persons: int, clips: int, datasets: tuple[str, ...] = ("synthetic_faces",)) -> ClipTable:
    return ClipTable.from_records(
        ClipRecord(
            clip=f"{datasets[p % len(datasets)]}/{p:02d}/{i}",
            dataset=datasets[p % len(datasets)],
            subject=f"{p:02d}",
            cohort=datasets[p % len(datasets)],
            frames=[b""] * 20,
            modality="rgb",
            fps=200.0,
            onset=2,
            apex=9,
            offset=17,
            apex_source="annotated",
            emotion=CLASSES[(p + i) % 5],
            expression_type="micro",
            action_units=np.full(AU_SLOTS, -1, np.int8),
            action_unit_sides=np.zeros(AU_SLOTS, np.int8),
            action_unit_intensity=np.zeros(AU_SLOTS, np.int8),
            landmarks=np.zeros((0, 68, 2), np.float32),
        )
        for p in range(persons)
        for i in range(1 + (p * 7) % clips)
    )


def face(smile: float, size: int = 64, seed: int = 0) -> np.ndarray:
    """A crude face, float32 [size, size, 3] in 0..1; `smile` lifts the corners of the mouth."""
    rng = np.random.default_rng(seed)
    image = np.full((4 * size, 4 * size, 3), 0.35 + 0.1 * rng.random(3), np.float32)
    unit, centre = 4 * size / 64, 2 * size
    cv2.ellipse(image, (centre, centre), (int(22 * unit), int(29 * unit)), 0, 0, 360, (0.85, 0.68, 0.58), -1)
    for side in (-1, 1):
        eye = (int(centre + side * 9 * unit), int(centre - 7 * unit))
        cv2.ellipse(image, eye, (int(4 * unit), int(2.2 * unit)), 0, 0, 360, (0.97, 0.97, 0.97), -1)
        cv2.circle(image, eye, int(1.8 * unit), (0.25, 0.18, 0.12), -1)
        brow = (eye[0], int(eye[1] - 5 * unit))
        cv2.ellipse(image, brow, (int(5 * unit), int(unit)), 0, 180, 360, (0.3, 0.2, 0.15), -1)
    x = np.linspace(-9, 9, 40)
    y = 15 - smile * 4 * (np.abs(x) / 9) ** 2
    lips = np.stack([centre + x * unit, centre + y * unit], -1).astype(np.int32)
    cv2.polylines(image, [lips], False, (0.7, 0.3, 0.3), int(2 * unit))
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def panels_of(n: int = 3) -> dict[str, np.ndarray]:
    neutral = np.stack([face(0.0, seed=i) for i in range(n)])
    smiling = np.stack([face(0.4 + 0.4 * i, seed=i) for i in range(n)])
    y, x = np.mgrid[:64, :64]
    heat = np.exp(-((x - 32) ** 2 / 300 + (y - 46) ** 2 / 60)).astype(np.float32)
    small = np.random.default_rng(0).random((n, 4, 4)).astype(np.float32)
    return {
        "recon_first": neutral,
        "recon_second": smiling,
        "recon_predicted": neutral + 0.8 * np.stack([cv2.GaussianBlur(d, (0, 0), 1.0) for d in smiling - neutral]),
        "recon_delta": np.abs(smiling - neutral).sum(-1).reshape(n, 8, 8, 8, 8).mean((2, 4)),
        "heat_onset": neutral,
        "heat_apex": smiling,
        "heat_gradcam": np.repeat(heat[None], n, axis=0),
        "heat_attention": small,
        "region_share": np.array([0.5, 0.3, 0.4, 0.4]),
        "region_area": np.array([0.2, 0.3, 0.2, 0.3]),
        "heat_title": np.array([f"happiness (predicted happiness), AU6 AU{12 + i}" for i in range(n)]),
    }


def write_workdir(
    workdir: Path,
    persons: int = 12,
    seeds: tuple[int, ...] = (0, 1),
    select: str = "last",
    datasets: tuple[str, ...] = ("synthetic_faces",),
) -> Path:
    rng = np.random.default_rng(0)
    table = table_of(persons, 9, datasets)
    labels = np.array([CLASSES.index(e) for e in table["emotion"]])
    parts = []
    for seed in seeds:
        logits = rng.normal(size=(len(table), 5)) + 2.0 * np.eye(5)[labels]
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        parts.append(
            results.predictions_of(table, labels, CLASSES, seed=seed, fold=table["subject"], probability=probability)
        )
    predictions = results.concatenate(parts)
    results.write_predictions(workdir / "predictions.csv", predictions)
    metrics = scores.summarise(
        predictions,
        select=select,
        oracle_inputs="boundaries+apex",
        protocol="loso",
        label_set="synthetic_5",
        split_hash="ab12" * 16,
        apex_source={"annotated": len(table)},
        notes=["7 macro clips of 2 tested persons were excluded from pre-training"],
        replicates=100,
    )
    results.write_metrics(workdir / "metrics.json", metrics)
    config = {
        "system": "ma2mi",
        "seeds": seeds,
        "data": {"size": 64, "data_dir": "/home/someone/data"},
        "pre": {"dt_ms": [80, 240]},
    }
    write_json(workdir / "config.json", config)
    write_json(workdir / "manifest.json", {"jax": "0.10.2", "command": f"main --workdir={workdir.resolve()} --x=1"})
    lines: list[dict[str, Any]] = []
    for seed in seeds:
        for step in range(0, 400, 20):
            loss = 0.4 * np.exp(-step / 120) + 0.05 + 0.01 * rng.random()
            lines.append({"stage": "pretrain", "seed": seed, "step": step, "loss": loss, "waiting_for_data": 0.01})
            if step % 100 == 0:
                r = 1 - np.exp(-step / 150)
                lines[-1] |= {"R": r, "R_shuf": -0.5 * r, "R_null": 0.02}
        where = workdir / "checkpoints" / (f"seed_{seed}" if len(seeds) > 1 else "") / "pretrain"
        counts = {"pairs": 12672, "tried": 13101, "cut": 380, "frozen": 49, "gave_up": 7}
        write_json(where / "health.json", {"R": 0.91, "R_shuf": -0.4, "R_null": 0.02, "R_linear": 0.3, "pairs": counts})
        for fold in range(persons):
            for step in range(0, 200, 20):
                loss = 1.6 * np.exp(-step / (60 + 5 * fold)) + 0.05 * rng.random()
                where = {"stage": "finetune", "seed": seed, "fold": f"{fold:02d}", "step": step}
                lines.append(where | {"loss": loss, "accuracy": 1 - loss / 2})
    (workdir / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workdir / "analysis").mkdir()
    np.savez(workdir / "analysis" / "panels.npz", **panels_of())
    return workdir


@pytest.fixture(scope="session")
def default_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workdir(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="session")
def reported_workdir(tmp_path_factory: pytest.TempPathFactory, default_workdir: Path) -> Path:
    """The default workdir with its report, to be read only."""
    workdir = shutil.copytree(default_workdir, tmp_path_factory.mktemp("reported") / "my_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 50)  # small pictures are drawn faster
        report.write_report(workdir)
    return workdir


@pytest.fixture
def make_workdir(tmp_path: Path, default_workdir: Path) -> Callable[..., Path]:
    def make(name: str = "run", **options: Any) -> Path:
        if not options:
            return shutil.copytree(default_workdir, tmp_path / name)
        (tmp_path / name).mkdir()
        return write_workdir(tmp_path / name, **options)

    return make
