"""Command line of `mer_jax.training.compile`: does a config fit into a TPU slice? No TPU and no data are needed.

  python -m mer_jax.training.compile --config configs/ma2mi.py:paper --topology v5e:4x4
  python -m mer_jax.training.compile --config configs/mol.py:paper --topology v5e:4x4,v5p:2x2x2 --folds 68

A store of --clips clips of --frames frames stands for the data; the numbers of CASME II are the default. One stage
alone: --config.stages=pretrain or finetune.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # before jax: libtpu would ask what machine this is,
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # and complain that nobody says
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")  # of no consequence: --topology says what is compiled for
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken: several may compile at once

import jax
from absl import app, flags

from mer_jax import startup, systems
from mer_jax.data import shapes
from mer_jax.errors import UserError
from mer_jax.evaluation import label_set as label_sets
from mer_jax.evaluation import labels
from mer_jax.files import write_json
from mer_jax.pretraining import epoch_steps, finetune_steps
from mer_jax.settings import Settings
from mer_jax.training import topology as compiler
from mer_jax.training.folds import FoldSettings
from mer_jax.training.pretrain import PretrainSettings

_CONFIG = startup.define_config()
_TOPOLOGY = flags.DEFINE_list("topology", ["v5e:4x4"], "TPU slices, e.g. v5e:4x4,v4:2x2x2.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many such slices work on one run.")
_CLIPS = flags.DEFINE_integer("clips", 255, "Clips of the store.")
_FRAMES = flags.DEFINE_integer("frames", 68, "Frames of a clip.")
_FOLDS = flags.DEFINE_integer("folds", 26, "Folds of the protocol.")
_MACRO_CLIPS = flags.DEFINE_integer("macro_clips", 16000, "Clips that are pre-trained on.")
_JSON = flags.DEFINE_string("json", None, "File that keeps the figures.")


def main(_: list[str]) -> None:
    """Prints one line a program and slice."""
    jax.config.update("jax_platforms", "cpu")  # the compiler is all that is used of libtpu
    try:
        settings = Settings(
            {k: v for k, v in _CONFIG.value.to_dict().items() if k not in ("ablation", "rows", "row_names")}
        )
        found = []
        for topology in _TOPOLOGY.value:
            devices = compiler.describe(topology, _SLICES.value)
            for one in compile_all(settings, devices):
                line = facts(one, topology, len(devices))
                found.append(line)
                print(row(line), flush=True)
                if _JSON.value:  # at once: the next program may take long
                    facts_of_all = {"config": startup.config_name(), "jax": jax.__version__, "programs": found}
                    write_json(_JSON.value, facts_of_all)
    except UserError as error:
        print(f"mer_jax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def compile_all(settings: Settings, devices: Any) -> Iterator[compiler.Compiled]:
    """Both stages of the config's system, or the one that `stages` names."""
    classes, settings = _classes(settings)
    system = systems.build(settings, classes, 7)
    if system.pretrain is not None and settings.stages != "finetune":
        per_epoch = epoch_steps(_MACRO_CLIPS.value, settings.pre.batch)
        pre = PretrainSettings(
            settings.pre.epochs * per_epoch,
            per_epoch,
            settings.pre.batch,
            shard_params=settings.engine.shard_params,
            remat=settings.engine.remat,
        )
        yield compiler.pretraining(system, pre, _pairs(settings), devices)
    if settings.stages == "pretrain":
        return
    store = shapes.store(system.needs, _CLIPS.value, _FRAMES.value, classes)
    engine, per_epoch = settings.engine, epoch_steps(_CLIPS.value, settings.ft.batch)
    scan = engine.chunk_mode != "dispatch" and system.buckets(store) is None
    length = FoldSettings(
        steps=finetune_steps(settings.ft, per_epoch),
        steps_per_epoch=per_epoch,
        batch=settings.ft.batch,
        sampler=settings.ft.sampler,
        chunk_steps=engine.chunk_steps,
        save_every=engine.save_every,
        evaluate_every=engine.evaluate_every,
        fold_mode="loop" if engine.fold_mode == "auto" else engine.fold_mode,
        chunk_mode="scan" if scan else "dispatch",
        folds_per_device=engine.folds_per_device or -(-_FOLDS.value // len(devices)),
        remat=engine.remat,
    )
    yield from compiler.folds(system, length, store, _CLIPS.value // 2, devices)


def _classes(settings: Settings) -> tuple[int, Settings]:
    chosen = labels.get(settings.data.labels)
    if isinstance(chosen, label_sets.ActionUnitSet):
        return len(chosen.units), settings.replace(data=settings.data.replace(action_units=chosen.units))
    return len(chosen.classes), settings


def _pairs(settings: Settings) -> dict[str, jax.ShapeDtypeStruct]:
    return shapes.pairs(settings.pre.batch, settings.data.size, settings.pre.task)


def facts(one: compiler.Compiled, topology: str, chips: int) -> dict[str, Any]:
    """One program as plain data."""
    limit = compiler.MEMORY[topology.split(":")[0]]
    return {
        "topology": topology,
        "chips": chips,
        "program": one.program,
        "memory_bytes": one.memory,
        "temporary_bytes": one.temporaries,
        "chip_bytes": limit * compiler.GIB,
        "fits": one.memory < limit * compiler.GIB,
        "collectives": {kind: {"count": n, "bytes": b} for kind, (n, b) in one.collectives.items()},
        "compile_seconds": round(one.seconds, 1),
    }


def row(line: dict[str, Any]) -> str:
    """A line of the table."""
    sums = ", ".join(f"{v['count']} {k} {v['bytes'] / 2**20:.1f} MiB" for k, v in line["collectives"].items())
    memory = f"{line['memory_bytes'] / compiler.GIB:.2f} of {line['chip_bytes'] / compiler.GIB:.0f} GiB"
    return (
        f"{line['topology']:<10} {line['chips']:>4} chips  {line['program']:<22} {memory:>18}"
        f"{'' if line['fits'] else '  DOES NOT FIT'}  {line['compile_seconds']:>6.1f} s  {sums or 'no collectives'}"
    )


if __name__ == "__main__":
    startup.parse_and_run(main, app)
