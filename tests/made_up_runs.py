"""Workdirs as finished runs leave them, with random networks: nothing is trained or compiled."""

import csv
import json

import numpy as np

from mer_jax import systems
from mer_jax.analysis.networks import variable_shapes
from mer_jax.evaluation.protocols import SPLIT_COLUMNS
from mer_jax.training.checkpoint import Finished, nest
from tests.benchmarks.settings import settings_of

DATASET = "synthetic_faces_tiny_micro"
TIME_SCALE = {"fps": [50.0], "clip": [0.2, 0.4, 0.6], "event": [0.1, 0.2, 0.4]}
SYSTEMS = ("akmnet", "atnet", "fdp", "ma2mi", "mol", "ststnet")


def random_variables(system, seed):
    """Variables of the recognition network of a system, random everywhere."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in variable_shapes(system).items():
        last = path.split("/")[-1]
        if last in ("var", "scale", "std", "maximum", "deviation"):
            x = rng.uniform(0.5, 1.5, shape)
        else:
            x = rng.normal(0, max(np.prod(shape[:-1]), 1) ** -0.5 if last == "kernel" else 0.1, shape)
        flat[path.replace("/", ".")] = np.asarray(x, np.float32)
    return nest(flat)


def settings_with(system, **fields):
    """Settings of `configs/<system>.py:tiny`; fields as `data__labels="own"`."""
    settings = settings_of("tiny", system)
    for name, value in fields.items():
        room, _, field = name.partition("__")
        new = settings[room].replace(**{field: value}) if field else value
        settings = settings.replace(**{room: new})
    return settings


def write_run(root, name, classes, persons=("p001", "p002"), **fields):
    """A leave-one-subject-out run of some persons with two clips each; returns its workdir."""
    settings = settings_with(name, **fields)
    system = systems.build(settings, len(classes), 2)
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(settings.to_dict()))
    facts = {"classes": list(classes), "time_scale": TIME_SCALE, "fingerprints": {"scored": "ab" * 32}}
    (root / "manifest.json").write_text(json.dumps(facts))
    finished = Finished(root / "checkpoints" / "finetune" / "folds")
    rows = []
    for seed, tested in enumerate(persons):
        finished.save(tested, random_variables(system, seed), {"fold": tested, "clips": {}})
        finished.wait()
        for person in persons:
            role = "test" if person == tested else "train"
            rows += [("loso", tested, DATASET, person, f"{DATASET}/{person}/c{k}", role) for k in range(2)]
    finished.close()
    with open(root / "splits.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([SPLIT_COLUMNS, *sorted(rows)])
    return root


def write_frames(folder, frames):
    """A folder of PNG files img1.png, img2.png, ... of uint8 [T, H, W, 3]."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames, start=1):
        cv2.imwrite(str(folder / f"img{t}.png"), np.ascontiguousarray(frame[..., ::-1]))
    return folder
