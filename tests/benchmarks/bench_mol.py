"""MOL: a training step against the same step in loops, the flow targets' own error, forms of its parts.

    python -m tests.benchmarks.bench_mol step [--batch 1 4] [--dtype float32] [--loops] [--steps 5]
    python -m tests.benchmarks.bench_mol tvl1 [--config micro_dev] [--clips 24]
    python -m tests.benchmarks.bench_mol parts

`step` times forward, backward and update of the released network (separate F5C blocks, 44 million parameters) on random
frames: seconds, sums a second (those of the released layers: 32.3 GFLOP a clip forwards, three times that a step) and
memory; seconds of all cores together are what is left of a measurement on a busy machine. `--loops` adds the same
weights and sums in the order of the authors' code: the network once a pair, CCC node after node and neighbour after
neighbour; both must give the same outputs.

`tvl1` compares the flow that MOL is taught (TV-L1 between stored frames) with the exact motion of the synthetic faces:
the floor below which an end-point error to TV-L1 says nothing.

`parts` times the forms of convolutions, transposed and circular ones, at the sizes of the released network.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.nn import f5c, patches
from tests.benchmarks.settings import settings_of
from tests.benchmarks.stage_time import seconds, time_form

FORWARD = 32.3e9  # operations of one clip, all tasks, as released


def random_batch(settings: Any, size: int) -> dict[str, jax.Array]:
    """Clips of noise with targets of noise."""
    rng, frames, crop = np.random.default_rng(0), settings.model.frames, settings.data.crop
    batch = {
        "frames": rng.uniform(size=(size, frames, crop, crop, 1)),
        "flow": rng.normal(size=(size, frames - 1, crop, crop, 2)),
        "landmarks": rng.uniform(0, crop, (size, frames - 1, 68, 2)),
    }
    return {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()} | {"label": jnp.arange(size) % 5}


# -- a step ------------------------------------------------------------------------------------------------------------


class LoopedCCC(f5c.CCC):
    """The released CCC, one node and neighbour after the other: both products for every one of them."""

    @f5c.nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        places = height * width
        maps = x.reshape(n, places, channels)
        near = f5c.neighbours(maps, self.k, itself=True)
        weights = []
        for number in (1, 2):
            weights.append(self.param(f"kernel_{number}", f5c.torch_kernel, (places, places)))
            weights.append(self.param(f"bias_{number}", f5c.nn.initializers.zeros, (places,)))
        w1, b1, w2, b2 = weights

        def node(_: None, centre: jax.Array) -> tuple[None, jax.Array]:
            edges = []
            for j in range(self.k):
                difference = jnp.take_along_axis(centre, near[..., j], axis=1) - centre
                edges.append(jax.nn.relu(centre @ w1 + b1 + (difference - centre) @ w2 + b2))
            return None, jnp.stack(edges).max(axis=0)

        _, found = jax.lax.scan(node, None, jnp.moveaxis(maps, -1, 0))
        return jnp.moveaxis(found, 0, -1).reshape(x.shape)


class Looped(f5c.nn.Module):
    """The released network pair after pair, with the parameters of `systems.mol.MOL`."""

    model: Any
    classes: int = 5

    @f5c.nn.compact
    def __call__(self, batch: Any, train: bool) -> Any:
        from mer_jax.nn.flow import FlowNet
        from mer_jax.nn.mol import ConvStack, Dense, LandmarkHead, RecognitionHead

        m, frames = self.model, batch["frames"]
        stack = ConvStack(m.width, name="conv_stack")
        blocks = [_LoopedF5C(m, name=f"f5c_{word}") for word in ("first", "second")]
        net = FlowNet(m.flow_width, m.flow_depth, m.flow_search, m.flow_dilation, name="flow")
        head = LandmarkHead(m.width, name="landmarks")
        features, flows, points = [], [], []
        for k in range(m.frames - 1):
            pair = [block(stack(frames[:, k + i], train), train) for i, block in enumerate(blocks)]
            features += pair
            flows.append(net(frames[:, k : k + 2], jnp.concatenate(pair, axis=-1)[:, None], train))
            points.append(head(pair[1])[:, None])
        code = RecognitionHead(m.width, m.dropout, name="recognition")(jnp.stack(features, axis=3), train)
        logits = Dense(self.classes, name="classifier")(code)
        return {"logits": logits, "flow": jnp.concatenate(flows, 1), "landmarks": jnp.concatenate(points, 1)}


class _LoopedF5C(f5c.nn.Module):
    model: Any

    @f5c.nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        m = self.model
        x = f5c.FCC(m.fcc_kernel, m.fcc_meta, m.fcc_positions, m.fcc_spread, m.fcc_ffn, name="fcc")(x, train)
        return x + LoopedCCC(m.ccc, m.k, name="ccc")(x)


def bench_step(arguments: argparse.Namespace) -> None:
    """One line for each batch, type and form."""
    from mer_jax import systems
    from mer_jax.training.step import initial_variables

    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, {len(jax.devices())} device(s); released network, batch in clips")
    print("form        type      batch  forward s  (cores)   step s  (cores)   GFLOP/s  temporary GB  compile s")
    for dtype in arguments.dtype:
        settings = settings_of(f"released,engine.dtype={dtype},model.normalise=none", "mol")
        stage = systems.build(settings, 5).finetune
        example = random_batch(settings, 1)
        initial = jax.jit(lambda k, s=stage, e=example: initial_variables(s, e, k)).lower(jax.random.key(0))
        variables = initial.compile(compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))
        forms = {"vectorised": stage}
        if arguments.loops:
            forms["loops"] = dataclasses.replace(stage, module=Looped(settings.model))
        for size in arguments.batch:
            batch, outputs, times = random_batch(settings, size), {}, {}
            for name, one in forms.items():
                outputs[name], (forward, step, memory, compiled) = time_form(one, variables, batch, arguments.steps)
                times[name], rate = step, 3 * FORWARD * size / step[0] / 1e9
                print(
                    f"{name:<11s} {dtype:<8s} {size:6d} {forward[0]:10.2f} {forward[1]:8.2f} {step[0]:8.2f} "
                    f"{step[1]:8.2f} {rate:9.0f} {memory / 1e9:13.2f} {compiled:10.0f}",
                    flush=True,
                )
            if arguments.loops:
                ours = outputs["vectorised"]
                apart = max(np.abs(ours[k] - v).max() / np.abs(v).max() for k, v in outputs["loops"].items())
                ratio = times["loops"] / times["vectorised"]
                print(
                    f"  loops / vectorised at batch {size}: {ratio[0]:.2f} (cores {ratio[1]:.2f}); "
                    f"outputs differ by {apart:.1e} (relative)"
                )


# -- the targets' own error --------------------------------------------------------------------------------------------


def bench_tvl1(arguments: argparse.Namespace) -> None:
    """TV-L1 against exact motion, over frame pairs as MOL's default configuration takes them."""
    from mer_jax.data import augment, frames, motion
    from tfds_builders.synthetic_faces import generate

    settings = settings_of("", "mol")
    model, crop = settings.model, settings.data.crop
    jobs = generate.clip_jobs(arguments.config)
    chosen = [jobs[i] for i in np.linspace(0, len(jobs) - 1, arguments.clips).astype(int)]
    rows = []
    for job in chosen:
        record = generate.render_clip(job)
        pairs = motion.pair_positions(len(record.frames), model.frames, model.sequences)
        grey = {int(i): frames.with_channels(frames.decode(record.frames[i]), 1)[..., 0] for i in np.unique(pairs)}
        earlier, later = (np.stack([grey[int(i)] for i in pairs[:, side]]) for side in (0, 1))
        found = motion.flow_fields(earlier, later)
        exact = np.stack([generate.exact_flow(job, int(a), int(b)) for a, b in pairs])
        found, exact = (np.asarray(augment.center(jnp.asarray(x), crop)) for x in (found, exact))
        moving = np.linalg.norm(found, axis=-1) >= model.moving_px  # as the system's measures say it
        lengths = [np.linalg.norm(x, axis=-1) for x in (found - exact, exact, found)]
        rows.append([*(x.mean() for x in lengths), *(x[moving].mean() for x in lengths), moving.mean()])
    mean = np.nanmean(rows, axis=0)
    print(f"{len(chosen)} clips of {arguments.config}, {crop} of {settings.data.size} pixels; pixels a frame pair")
    print("                        all places   where TV-L1 moves at least", model.moving_px)
    for i, name in enumerate(("TV-L1 to exact", "no flow to exact", "no flow to TV-L1")):
        print(f"{name:20s} {mean[i]:13.4f} {mean[i + 3]:14.4f}")
    print(f"share of moving places {mean[6]:.0%}")


# -- forms of the parts ------------------------------------------------------------------------------------------------


def circular_by_shifts(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """Sum of shifted products."""
    return sum((kernel[r] * jnp.roll(x, -r, axis) for r in range(1, len(kernel))), kernel[0] * x)


def circular_by_fft(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """Product of spectra."""
    spectrum = jnp.conj(jnp.fft.rfft(kernel, axis=0))
    spectrum = spectrum[:, None] if axis == 1 else spectrum
    return jnp.fft.irfft(jnp.fft.rfft(x, axis=axis) * spectrum, n=x.shape[axis], axis=axis)


def bench_parts(arguments: argparse.Namespace) -> None:
    """Forward, and forward with gradients, of each form."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def line(name: str, form: str, function: Callable, *operands: jax.Array) -> None:
        weights = random(*jax.eval_shape(function, *operands).shape)

        def loss(weights: jax.Array, *operands: jax.Array) -> jax.Array:
            return jnp.vdot(function(*operands), weights)

        places = tuple(range(1, 1 + len(operands)))
        both = jax.jit(jax.value_and_grad(loss, places))
        forward = jax.jit(function)
        taken = [
            *(1e3 * seconds(lambda: forward(*operands), arguments.steps)),
            *(1e3 * seconds(lambda: both(weights, *operands), arguments.steps)),
        ]
        print(f"{name:34s} {form:10s} " + " ".join(f"{t:9.2f}" for t in taken), flush=True)

    print("part (batch 1), milliseconds       form         forward   (cores)  with grads (cores)")
    for axis in (1, 2):
        x, kernel = random(14, 16, 16, 64), random(16, 64)
        forms = {"circulant": f5c.circular_correlation, "shifts": circular_by_shifts, "fft": circular_by_fft}
        for form, function in forms.items():
            line(f"circular, axis {axis}", form, lambda x, k, f=function, a=axis: f(x, k, a), x, kernel)
    layers: Sequence[tuple[str, int, int, int, int, int, int]] = [
        ("conv2", 64, 64, 128, 4, 2, 1), ("conv3", 32, 128, 256, 2, 2, 0),
        ("conv3_1", 16, 513, 256, 3, 1, 1), ("conv4_1", 8, 512, 512, 3, 1, 1),
        ("conv5_1", 4, 512, 512, 3, 1, 1), ("predict1", 64, 130, 2, 3, 1, 1),
    ]  # fmt: skip
    for name, side, channels, features, size, stride, padding in layers:
        x, kernel = random(7, side, side, channels), random(size, size, channels, features)
        for form in ("auto", "direct", "patches", "taps" if stride == 1 else "blocks"):
            if not (form == "patches" and features == 2):
                text = f"{name} {side} px, {channels} to {features}"
                line(text, form, lambda x, k, f=form, s=stride, p=padding: patches.convolve(x, k, s, p, f), x, kernel)
    for name, side, channels, features in [
        ("deconv2", 16, 386, 128),
        ("deconv1", 32, 258, 64),
        ("deconv0", 64, 130, 32),
    ]:
        x, kernel = random(7, side, side, channels), random(channels, 4, 4, features)
        for form in ("direct", "taps", "blocks"):
            text = f"{name} {side} px, {channels} to {features}"
            line(text, form, lambda x, k, f=form: patches.upconvolve(x, k, f), x, kernel)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="step|tvl1|parts")
    step = parts.add_parser("step", help="a training step")
    step.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    step.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    step.add_argument("--loops", action="store_true")
    step.add_argument("--steps", type=int, default=5)
    step.set_defaults(run=bench_step)
    tvl1 = parts.add_parser("tvl1", help="the flow targets' own error")
    tvl1.add_argument("--config", default="micro_dev")
    tvl1.add_argument("--clips", type=int, default=24)
    tvl1.set_defaults(run=bench_tvl1)
    forms = parts.add_parser("parts", help="forms of convolutions")
    forms.add_argument("--steps", type=int, default=5)
    forms.set_defaults(run=bench_parts)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
