"""What a system may add to the engine: statistics of a fold, measures of a clip, buckets of clip lengths."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data.store import ClipStore
from mer_jax.systems.base import Buckets
from mer_jax.training import draws, folds, waves
from mer_jax.training.checkpoint import Finished, Rolling, read_arrays, read_meta
from mer_jax.training.monitor import Monitor
from tests.training import toy

LENGTHS = np.array([2, 3, 5, 2, 4, 5, 2, 3, 2, 2, 5, 3])
PERSON = np.arange(12) % 3


class Network(nn.Module):
    @nn.compact
    def __call__(self, batch, train):
        fitted = self.variable("constants", "statistics", lambda: {"mean": jnp.zeros(())}).value
        shown = batch["mask"].astype(jnp.float32)
        mean = (batch["image"] * shown).sum(-1) / shown.sum(-1)
        logits = nn.Dense(toy.CLASSES)((mean - fitted["mean"])[:, None])
        return {"logits": logits, "mean": mean, "frames": shown.sum(-1)}


@dataclasses.dataclass(frozen=True)
class System(toy.ToySystem):
    """Reads all frames of a clip; its view is padded to the length of the clip's bucket."""

    n_views: int = 2

    def view(self, store, index, key, train, length):
        mask = jnp.arange(length) < store.length[index]
        frames = store.frames[store.start[index] + jnp.arange(length)].mean((1, 2, 3))
        seen = jnp.float32(1.0) if train else jnp.asarray(key, jnp.float32)
        return {"image": frames / 255.0, "mask": mask, "label": store.label[index], "view": seen, "clip": index}

    def buckets(self, store):
        return Buckets((3, 5), (np.asarray(store.length) > 3).astype(np.int32))

    def statistics(self, store, mask):
        owner = jnp.repeat(jnp.arange(len(LENGTHS)), LENGTHS, total_repeat_length=int(LENGTHS.sum()))
        weight = mask[owner].astype(jnp.float32)
        per_frame = store.frames.astype(jnp.float32).mean((1, 2, 3)) / 255.0
        return {"mean": (per_frame * weight).sum() / jnp.maximum(weight.sum(), 1)}

    def measures(self, outputs, batch):
        only_second = jnp.where(batch["view"] > 0, outputs["mean"], jnp.nan)
        return {"frames": outputs["frames"], "brightness": only_second, "never": outputs["mean"] * jnp.nan}

    @property
    def finetune(self):
        return dataclasses.replace(super().finetune, module=Network(), carry=())


def store():
    rng = np.random.default_rng(0)
    n, total = len(LENGTHS), int(LENGTHS.sum())
    zeros = np.zeros(n, np.int32)
    frames = rng.integers(0, 255, (total, toy.SIZE, toy.SIZE, 3), np.uint8)
    base = toy.store(n)
    facts = {"frames": frames, "start": (np.cumsum(LENGTHS) - LENGTHS).astype(np.int32), "offset": zeros}
    return ClipStore(**{**vars(base), **facts, "length": LENGTHS.astype(np.int32)})


def protocol(empty=False):
    """Three persons; with `empty`, the first fold trains on short clips only."""
    test = np.stack([p == PERSON for p in range(3)])
    train = ~test
    if empty:
        train[0] &= LENGTHS <= 3
    return folds.Folds(("a", "b", "c"), train, np.zeros_like(test), test)


def engine(empty=False, **changes):
    settings = folds.FoldSettings(
        steps=12, steps_per_epoch=4, batch=3, chunk_steps=4, save_every=4, evaluate_every=4, **changes
    )
    return folds.FoldEngine(System(), store(), protocol(empty), settings)


def test_statistics_come_from_the_training_clips_of_the_fold():
    made = engine(folds_per_device=2, fold_mode="loop")
    waves = [made.init(*made.inputs(names)) for names in (("a", "b"), ("c",))]
    found = np.concatenate([wave.collections["constants"]["statistics"]["mean"] for wave in waves])
    assert len(found) == 4
    clips = store()
    brightness = np.split(clips.frames.reshape(len(clips.frames), -1).mean(1) / 255.0, clips.start[1:])
    for fold, value in enumerate(np.asarray(found)[:3]):
        expected = np.concatenate([b for b, p in zip(brightness, PERSON, strict=True) if p != fold]).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(found).all()  # padded folds too


def test_no_device_gets_more_folds_than_its_share():
    """As in a run that goes on with more devices than those whose memory it was packed for."""
    assert engine(folds_per_device=50, fold_mode="loop").wave_size == 3
    decided = {"folds_per_device": 50, "fold_mode": "vmap"}
    settings = folds.FoldSettings(steps=12, steps_per_epoch=4, batch=3, chunk_steps=4, save_every=4, evaluate_every=4)
    made = folds.FoldEngine(System(), store(), protocol(), settings, decided=decided)
    assert (made.wave_size, made.choices["fold_mode"]) == (3, "vmap")


def test_a_fold_without_clips_in_the_bucket_stays_as_it_is():
    made = engine(empty=True, folds_per_device=3, fold_mode="loop")
    masks, keys = made.inputs(("a", "b", "c"))
    states = made.init(masks, keys)
    lengths = {int(b) for b in made._bucket}
    assert lengths == {0, 1}
    for step in range(12):
        before = jax.tree.map(np.asarray, states)
        states, metrics = made.chunk(states, masks, keys, step, 1)
        weight = made.read(metrics)["weight"][:, 0]
        pairs = list(zip(jax.tree.leaves(before), map(np.asarray, jax.tree.leaves(states)), strict=True))
        changed = [any((a[i] != b[i]).any() for a, b in pairs) for i in range(3)]
        short = made._bucket[step] == 0
        assert weight.tolist() == [3.0 if short else 0.0, 3.0, 3.0]
        assert changed == [bool(short), True, True]


def test_the_schedule_gives_every_bucket_its_share_and_counts_visits():
    counts, epoch = np.array([70, 20, 10]), 7
    bucket, visit = draws.bucket_schedule(counts, 40 * epoch, epoch, 3)
    share = np.bincount(bucket) / len(bucket)
    np.testing.assert_allclose(share, counts / 100, atol=0.02)
    for b in range(3):
        np.testing.assert_array_equal(visit[bucket == b], np.arange((bucket == b).sum()))
    shorter, _ = draws.bucket_schedule(counts, 2 * epoch, epoch, 3)
    np.testing.assert_array_equal(shorter, bucket[: 2 * epoch])  # a step's bucket does not depend on the length
    assert (draws.bucket_schedule(counts, 40 * epoch, epoch, 4)[0] != bucket).any()


def test_every_tested_clip_is_seen_whole_and_measured(tmp_path):
    made = engine(folds_per_device=2, fold_mode="loop")
    rolling, finished, monitor = Rolling(tmp_path / "wave"), Finished(tmp_path / "folds"), Monitor(tmp_path)
    names = np.array([f"c{i}" for i in range(12)])
    preemption = type("Never", (), {"reached": lambda self: False})()
    waves.train_folds(made, names, rolling, finished, monitor, preemption)
    clips = store()
    brightness = [b.mean() / 255.0 for b in np.split(clips.frames.mean((1, 2, 3)), clips.start[1:])]
    seen = {}
    for fold, name in enumerate("abc"):
        meta = read_meta(finished.path(name))
        assert sorted(meta["clips"]) == sorted(names[fold == PERSON])
        for clip in meta["clips"]:
            i = int(clip[1:])
            assert meta["measures"]["frames"][clip] == LENGTHS[i]
            np.testing.assert_allclose(meta["measures"]["brightness"][clip], brightness[i], rtol=1e-5)
            assert meta["measures"]["never"][clip] is None
            seen[clip] = meta["clips"][clip]
        assert "statistics" in read_arrays(finished.path(name))["constants"]
    assert len(seen) == 12
    for closed in (rolling, finished, monitor):
        closed.close()


def test_fold_modes_agree_with_buckets():
    results = {}
    for mode in ("loop", "vmap"):
        made = engine(folds_per_device=3, fold_mode=mode)
        masks, keys = made.inputs(("a", "b", "c"))
        states, _ = made.chunk(made.init(masks, keys), masks, keys, 0, 8)
        results[mode] = jax.tree.map(np.asarray, states.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results.values())
