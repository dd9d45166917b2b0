"""FDP: a training step of the released network, the forms of its 3x3 convolutions, what a scorer orders frames by.

    python -m tests.benchmarks.bench_fdp step [--batch 2 8] [--form auto direct] [--dtype float32] [--steps 5]
    python -m tests.benchmarks.bench_fdp forms [--batch 2]
    python -m tests.benchmarks.bench_fdp order WORKDIR [WORKDIR ...] [--seed N]

`step` times forward, backward and update of the released network (85 million parameters) on random frames: seconds on
the clock, seconds of all cores together (what is left of a measurement on a busy machine), sums a second (those of the
released layers: 17.25 GFLOP a clip forwards, three times that a step) and memory. `--form direct` is the same network
with XLA's own convolutions; outputs must be the same.

`forms` times every form of a 3x3 convolution with its gradients at the sizes of the released network: what
`nn.convolution.best_form` chooses from.

`order` has the scorers of finished runs on one config of the synthetic faces order the frames of the people they did
not learn from: as the clips are, without their expression (head, lids and light alone), and with nothing but it.
Kendall's tau against time as in the run's measures, beside the tau of how far a frame is from the first one; mean over
clips, 95 % interval over persons.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.nn import convolution
from tests.benchmarks.settings import settings_of
from tests.benchmarks.stage_time import seconds, time_form

FORWARD = 17.25e9  # operations of one clip of eight frames, as released
FRAMES, SIZE = 8, 64
ENCODER = ((16, 96), (8, 192), (4, 384), (2, 768))  # side and channels of its maps; eight a clip
SEGNET = ((64, 64), (32, 128), (16, 256), (8, 512), (4, 512))  # one a clip


def bench_step(arguments: argparse.Namespace) -> None:
    """One line for each batch, type and form."""
    from mer_jax import systems
    from mer_jax.training.step import initial_variables

    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, {len(jax.devices())} device(s); released network, batch in clips")
    print("form        type      batch  forward s  (cores)   step s  (cores)   GFLOP/s  temporary GB  compile s")
    rng = np.random.default_rng(0)
    for dtype in arguments.dtype:
        stages = {
            form: systems.build(
                settings_of(f"released,engine.dtype={dtype},model.form={form},model.standardise=False", "fdp"), 5
            ).finetune
            for form in arguments.form
        }
        for size in arguments.batch:
            batch = {
                "frames": jnp.asarray(rng.uniform(size=(size, FRAMES, SIZE, SIZE, 1)), jnp.float32),
                "label": jnp.arange(size) % 5,
                "position": jnp.tile(jnp.arange(FRAMES), (size, 1)),
            }
            example, first = jax.tree.map(lambda x: x[:1], batch), stages[arguments.form[0]]
            initial = jax.jit(lambda k, s=first, e=example: initial_variables(s, e, k)).lower(jax.random.key(0))
            variables = initial.compile(compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))
            logits, steps = {}, {}
            for form, stage in stages.items():
                outputs, (forward, step, memory, compiled) = time_form(stage, variables, batch, arguments.steps)
                logits[form], steps[form] = outputs["logits"], step
                print(
                    f"{form:<11s} {dtype:<8s} {size:6d} {forward[0]:10.2f} {forward[1]:8.2f} {step[0]:8.2f} "
                    f"{step[1]:8.2f} {3 * FORWARD * size / step[0] / 1e9:9.0f} {memory / 1e9:13.2f} {compiled:10.0f}",
                    flush=True,
                )
            for form in arguments.form[1:]:
                apart = np.abs(logits[form] - logits[arguments.form[0]]).max() / np.abs(logits[form]).max()
                ratio = steps[form] / steps[arguments.form[0]]
                print(
                    f"  {form} / {arguments.form[0]}: {ratio[0]:.2f} (cores {ratio[1]:.2f}); "
                    f"logits differ by {apart:.1e}"
                )


def bench_forms(arguments: argparse.Namespace) -> None:
    """Milliseconds of a convolution and both gradients, a line a size."""
    rng = np.random.default_rng(0)
    print("part     batch  side  channels      direct     patches    winograd   auto is")
    for part, sizes, images in (("encoder", ENCODER, arguments.batch * FRAMES), ("SegNet", SEGNET, arguments.batch)):
        for side, channels in sizes:
            x = jnp.asarray(rng.normal(size=(images, side, side, channels)), jnp.float32)
            kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)) / channels, jnp.float32)
            words = []
            for form in ("direct", "patches", "winograd"):

                def loss(x: jax.Array, kernel: jax.Array, form: str = form) -> jax.Array:
                    return (convolution.conv3x3(x, kernel, form) ** 2).sum()

                both = jax.jit(jax.grad(loss, argnums=(0, 1)))
                words.append(f"{1e3 * seconds(lambda f=both, x=x, k=kernel: f(x, k), 5)[0]:12.1f}")
            chosen = convolution.best_form(x.shape, channels)
            print(f"{part:<8s} {images:5d} {side:5d} {channels:9d} {''.join(words)}   {chosen}", flush=True)


def bench_order(arguments: argparse.Namespace) -> None:
    """One line a run, version of the clips and part of the event."""
    from mer_jax.analysis.open_run import open_run
    from mer_jax.analysis.pictures.fdp import mean_over_persons
    from mer_jax.data import prepared
    from mer_jax.data.source import memory_source
    from tfds_builders.synthetic_faces import generate

    versions = {
        "as they are": lambda truth: truth,
        "head alone": generate.head_alone,
        "expression alone": generate.expression_alone,
    }
    runs = [open_run(workdir) for workdir in arguments.workdir]
    for run in runs:
        if run.system.finetune.module.scorer is None or not run.settings.data.order_frames:
            raise SystemExit(
                f"{run.workdir}: found no scorer, or data.order_frames = 0; expected a run that orders frames"
            )
    config = runs[0].settings.data.name.removeprefix("synthetic_faces/")
    jobs = [job for job in generate.clip_jobs(config) if job.emotion != "neutral"]
    print(f"{'run':<18s}{'clips':<18s}{'onset-apex':>22s}{'apex-offset':>22s}{'event':>22s}")
    for version, change in versions.items():
        source = memory_source([generate.render_clip(job, change(generate.facts(job))) for job in jobs])
        for run in runs:
            none = np.zeros(len(jobs), np.int32)  # the order of frames asks for no class
            store, table = prepared.clip_store(run.settings, run.system, source, np.arange(len(jobs)), none)
            store, tau = jax.device_put(store), np.full((len(jobs), 6), np.nan)
            for fold in run.folds(arguments.seed):
                tested = np.flatnonzero(np.isin(table["clip"], run.splits[fold]["test"]))
                tau[tested] = order_of(run.network(fold, arguments.seed), store, tested)
            cells = [f"{mean_over_persons(column, table['subject']):>22s}" for column in tau.T]
            if run is runs[0]:
                print(f"{'distance to first':<18s}{version:<18s}{''.join(cells[3:])}")
            print(f"{run.name:<18s}{version:<18s}{''.join(cells[:3])}", flush=True)


def order_of(network: Any, store: Any, chosen: np.ndarray) -> np.ndarray:
    """Tau of onset to apex, apex to offset and the event of some clips of a store: by scores, by departure, [n, 6]."""
    from mer_jax.analysis.pictures.fdp import DEPARTURES, ORDERS

    batch = jax.vmap(lambda i: network.system.view(store, i, jnp.int32(0), False))(jnp.asarray(chosen))
    found = network.system.measures(network.apply(batch), batch)
    return np.stack([found[name] for name in ORDERS + DEPARTURES], axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    step = parts.add_parser("step", help="a training step")
    step.add_argument("--batch", type=int, nargs="+", default=[2, 8])
    step.add_argument("--form", nargs="+", default=["auto"], choices=convolution.FORMS)
    step.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    step.add_argument("--steps", type=int, default=5, help="repetitions of which the median counts")
    step.set_defaults(run=bench_step)
    forms = parts.add_parser("forms", help="forms of a 3x3 convolution")
    forms.add_argument("--batch", type=int, default=2, help="clips")
    forms.set_defaults(run=bench_forms)
    order = parts.add_parser("order", help="what the scorers of finished runs order frames by")
    order.add_argument("workdir", nargs="+", help="of runs on one config of the synthetic faces")
    order.add_argument("--seed", type=int, default=None, help="one of the runs' seeds; default the first")
    order.set_defaults(run=bench_order)
    chosen = parser.parse_args(arguments)
    chosen.run(chosen)


if __name__ == "__main__":
    main()
