"""A small recognition system on random frames: the engine's tests need no paper."""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mer_jax.data.clips import AU_SLOTS
from mer_jax.data.store import ClipStore
from mer_jax.systems.base import Defaults, Needs, Stage
from mer_jax.training.folds import Folds
from mer_jax.training.optimizer import OptimizerSettings

SIZE, CLASSES = 8, 3


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.relu(x).mean((1, 2))


class Network(nn.Module):
    def setup(self):
        self.encoder = Encoder()
        self.head = nn.Dense(CLASSES)

    def __call__(self, batch, train):
        return {"logits": self.head(self.encoder(batch["image"], train))}


def objective(outputs, batch):
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], batch["label"])
    return loss, {"cross_entropy": loss}


@dataclasses.dataclass(frozen=True)
class ToySystem(Defaults):
    optimizer: OptimizerSettings = OptimizerSettings(name="sgd", learning_rate=0.1, b1=0.9)  # noqa: RUF009
    carry: tuple = ("encoder",)
    needs: Needs = Needs(size=SIZE)  # noqa: RUF009

    def view(self, store, index, key, train):
        image = store.frames[store.start[index]].astype(jnp.float32) / 255.0
        if train:
            image = image + 0.01 * jax.random.normal(key, image.shape)
        return {"image": image, "label": store.label[index]}

    def combine(self, logits):
        return jax.nn.softmax(logits).mean(0)

    @property
    def finetune(self):
        return Stage(module=Network(), objective=objective, optimizer=self.optimizer, carry=self.carry)

    @property
    def pretrain(self):
        return Stage(module=Network(), objective=objective, optimizer=self.optimizer)

    def pretrain_view(self, example, key, train):
        image = example["first"].astype(jnp.float32) / 255.0 + 0.01 * jax.random.normal(key, example["first"].shape)
        return {"image": image, "label": example["label"], "weight": example["weight"]}


class Wide(nn.Module):
    """Leaves that divide among 8 devices, and some that do not."""

    @nn.compact
    def __call__(self, batch, train):
        x = batch["image"].reshape(len(batch["image"]), -1)
        x = nn.LayerNorm()(nn.gelu(nn.Dense(64)(x)))
        return {"logits": nn.Dense(CLASSES)(x)}


@dataclasses.dataclass(frozen=True)
class WideSystem(ToySystem):
    @property
    def pretrain(self):
        return Stage(module=Wide(), objective=objective, optimizer=self.optimizer)


def store(n=20, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n).astype(np.int32)
    frames = rng.integers(0, 128, (n, SIZE, SIZE, 3))
    frames += (label * 40)[:, None, None, None]
    zeros = np.zeros(n, np.int32)
    return ClipStore(
        frames=frames.astype(np.uint8),
        start=np.arange(n, dtype=np.int32),
        length=zeros + 1,
        fps=np.full(n, 100, np.float32),
        onset=zeros,
        apex=zeros,
        offset=zeros,
        true_onset=zeros - 1,
        true_apex=zeros - 1,
        true_offset=zeros - 1,
        modality=zeros,
        label=label,
        action_units=np.full((n, AU_SLOTS), -1, np.int8),
        landmarks=np.zeros((0, 68, 2), np.float32),
        motion={},
    )


def folds(n=20, people=5, validation=False):
    person = np.arange(n) % people
    test = np.stack([person == p for p in range(people)])
    inner = np.stack([person == (p + 1) % people for p in range(people)]) & validation
    return Folds(tuple(f"p{i}" for i in range(people)), ~test & ~inner, inner, test)


def clip_names(n=20):
    return np.array([f"toy/p{i % 5}/{i}" for i in range(n)])


class Stream:
    """Random labelled images by step; each process holds its slice of the global batch."""

    def __init__(self, batch, process=0, processes=1):
        self.batch, self.process, self.processes = batch, process, processes

    def __call__(self, step):
        rng = np.random.default_rng([3, step])
        label = rng.integers(0, CLASSES, self.batch).astype(np.int32)
        images = rng.integers(0, 30, (self.batch, SIZE, SIZE, 3)) + (label * 80)[:, None, None, None]
        example = step * self.batch + np.arange(self.batch, dtype=np.int32)
        whole = {
            "first": images.astype(np.uint8),
            "label": label,
            "weight": np.ones(self.batch, np.float32),
            "example": example,
            "epoch": example // 16,
        }
        share = self.batch // self.processes
        return {k: v[self.process * share : (self.process + 1) * share] for k, v in whole.items()}

    def iterate(self, start=0, stop=None):
        return contextlib.nullcontext(map(self, range(start, stop)))
