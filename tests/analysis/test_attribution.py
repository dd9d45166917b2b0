"""Maps of a run whose networks are known: each class moves a quarter of the frame; half of the clips are disturbed."""

import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mer_jax.analysis import attribution, feature_figures, features, layers, lenses, map_figures, map_scores
from mer_jax.analysis.layers import Place
from mer_jax.analysis.looking import Clips
from mer_jax.analysis.map_scores import DIFFERENCE, GRADCAM, GRADIENTS, NONE, RANDOM, TRAINED
from mer_jax.analysis.open_run import FEATURES
from mer_jax.analysis.page import Page
from mer_jax.data import prepared, source, truth
from mer_jax.data.clips import AU_SLOTS, ClipRecord
from mer_jax.data.frames import encode_png
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems.base import Needs

SIDE, PERSONS, CLIPS = 32, 6, 4
CLASSES = ("a", "b", "c", "d")
QUARTERS = [(slice(y, y + 16), slice(x, x + 16)) for y in (0, 16) for x in (0, 16)]


def record(person: int, label: int) -> ClipRecord:
    """Brightens a spot of the class's quarter; in half of the clips something darkens in the next one."""
    rng = np.random.default_rng(person * CLIPS + label)
    still = rng.integers(80, 120, (SIDE, SIDE, 1)).astype(np.int64)
    apex = still.copy()
    y, x = QUARTERS[label]
    apex[y, x][4:12, 4:12] += 60
    if (person + label) % 2:
        y, x = QUARTERS[(label + 1) % CLIPS]
        apex[y, x][4:12, 4:12] -= 60
    frames = [encode_png(f.astype(np.uint8)) for f in (still, apex, still)]
    units = np.zeros(AU_SLOTS, np.int8)
    units[[1, 1, 12, 12][label]] = 1
    points = np.full((3, 68, 2), 16, np.float32)
    points[:, 17:27] = np.stack([np.linspace(4, 28, 10), np.full(10, 7)], -1)
    points[:, 48:68] = np.stack([np.linspace(8, 24, 20), np.full(20, 24)], -1)
    points[:, 5:12] = [16, 28]
    points[:, [36, 45]] = [[8, 12], [24, 12]]
    return ClipRecord(
        clip=f"toy/p{person}/{label}", dataset="toy", subject=f"p{person}", cohort="toy", frames=frames,
        modality="grey", fps=100.0, onset=0, apex=1, offset=2, apex_source="annotated", emotion=CLASSES[label],
        expression_type="micro", action_units=units, action_unit_sides=np.zeros(AU_SLOTS, np.int8),
        action_unit_intensity=np.zeros(AU_SLOTS, np.int8), landmarks=points, true_onset=0, true_apex=1, true_offset=2,
    )  # fmt: skip


class Changes(nn.Module):
    """Brighter and darker, averaged over 4 x 4 pixels."""

    def __call__(self, change: jax.Array) -> jax.Array:
        return nn.avg_pool(jnp.concatenate([nn.relu(change), nn.relu(-change)], -1), (4, 4), (4, 4))


class Network(nn.Module):
    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        x = Changes(name="changes")(batch["second"] - batch["first"])
        quarters = x.reshape(len(x), 2, 4, 2, 4, 2).sum((2, 4)).reshape(len(x), -1)
        return {"logits": nn.Dense(4, use_bias=False, name="classifier")(quarters)}


class System:
    needs = Needs(SIDE, channels=1)
    n_views = 1

    def combine(self, logits: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits[0])

    def __init__(self, settings: Settings) -> None:
        self.settings, self.finetune = settings, types.SimpleNamespace(module=Network())

    def buckets(self, store: object) -> None:
        return None

    def view(self, store: object, index: jax.Array, key: jax.Array, train: bool) -> dict[str, jax.Array]:
        rows = store.start[index] + jnp.stack([store.onset[index], store.apex[index]])
        first, second = store.frames[rows].astype(jnp.float32) / 255
        return {"first": first, "second": second}


class Lens(lenses.Lens):
    place = Place(("changes",))
    inputs = ("second",)

    def features(self, value: jax.Array) -> jax.Array:
        return value[:, None]

    def put(self, value: jax.Array, features: jax.Array) -> jax.Array:
        return features[:, 0]

    def moments(self, batch: object, store: object, clip: jax.Array) -> dict[str, jax.Array]:
        return {"": jnp.ones(1), "key frames": jnp.array([0.0, 1.0, 2.0, jnp.nan]), "own": jnp.full(1, jnp.nan)}

    def still(self, batch: dict[str, jax.Array], store: object, clip: jax.Array) -> dict[str, jax.Array]:
        return {"second": batch["first"][0]}

    def attributed(self, found: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {GRADIENTS: jnp.abs(found["second"][..., 0])[None]}

    def own(self, variables: object, batch: dict[str, jax.Array], outputs: object) -> dict[str, jax.Array]:
        return {"key frames": jnp.array([1.0, 2.0, 1.0, 5.0])[:, None, None], "own": batch["second"][..., 0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> types.SimpleNamespace:
    root = tmp_path_factory.mktemp("maps")
    fields = common.base("toy").to_dict()
    fields["data"] |= {"name": "toy", "dir": str(root), "size": SIDE}
    settings = Settings({k: v for k, v in fields.items() if k not in ("ablation", "rows", "row_names")})
    records = [record(person, label) for person in range(PERSONS) for label in range(CLIPS)]
    clips, system = source.memory_source(records), System(settings)
    labels = np.array([CLASSES.index(r.emotion) for r in records], np.int32)
    store, table = prepared.clip_store(settings, system, clips, np.arange(len(records)), labels)
    opened = Clips(settings, clips, np.arange(len(records)), table, labels, jax.device_put(store))

    motion = np.zeros((len(records), SIDE, SIDE), np.float32)
    for k, label in enumerate(labels):
        y, x = QUARTERS[label]
        motion[k][y, x][4:12, 4:12] = 0.3
    disturbed = np.array([(k // CLIPS + k % CLIPS) % 2 for k in range(len(records))], np.float32)
    truth.write(root, "toy", truth.Truth(table["clip"], motion, disturbed))

    kernel = np.zeros((4, 2, 4), np.float32)
    kernel[np.arange(4), 0, np.arange(4)] = 1  # class k: what brightens in quarter k
    variables = {"params": {"classifier": {"kernel": kernel.reshape(8, 4)}}}
    persons = {r.subject for r in records}
    splits = {p: {"train": [r.clip for r in records if r.subject != p], "val": []} for p in sorted(persons)}
    for p, roles in splits.items():
        roles["test"] = [r.clip for r in records if r.subject == p]
    found = types.SimpleNamespace(
        workdir=root, settings=settings, classes=CLASSES,
        tested_in={r.clip: r.subject for r in records}, splits=splits,
        clips=lambda data_dir="": opened, check_folds=lambda: None,
        network=lambda fold: types.SimpleNamespace(settings=settings, system=system, variables=variables),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lenses.LENSES, "toy", Lens)
        patch.setitem(layers.CLASSIFIER, "toy", Place(("classifier",), side="input"))
        attribution.write_maps(found)
        features.write_features(found)
    return found


def test_maps_of_a_network_that_sees_what_moves(run: types.SimpleNamespace):
    scores = map_scores.read_scores(run.workdir / map_scores.SCORES)
    clips = list(run.tested_in)
    assert scores.maps == [GRADCAM, GRADIENTS, "key frames", "own"]
    for which in (GRADCAM, GRADIENTS):
        own, other = (scores.column(name, which, TRAINED, clips) for name in ("own", "other"))
        assert own.min() > (0.5 if which == GRADCAM else 0.99)  # 64 pixels move, 102 are a tenth, maps are 4 coarser
        assert other.max() < 0.01
    own = scores.column("own", DIFFERENCE, NONE, clips)
    disturbed = np.array([(int(c[5]) + int(c[7])) % 2 for c in clips], bool)
    np.testing.assert_allclose(own[~disturbed], 1, atol=1e-6)
    np.testing.assert_allclose(own[disturbed], 0.5, atol=1e-3)
    random = scores.column("own", GRADIENTS, RANDOM, clips)
    assert np.median(random[disturbed]) < 0.9

    row = map_scores.summarise(scores)[GRADIENTS]["moving"]
    assert row[DIFFERENCE]["low"] > 0
    assert row["mean of others"]["low"] > 0.5
    assert row["random weights"]["mean"] > 0
    some = map_scores.summarise(scores, [c for c, d in zip(clips, disturbed, strict=True) if not d])
    assert some[GRADIENTS]["moving"][DIFFERENCE]["mean"] == pytest.approx(0, abs=0.01)
    assert set(scores.text["disturbed"][scores.text["clip"] == clips[1]]) == {"1"}

    assert np.nanmax(scores.value["gap"]) < 1e-5  # linear where a clip's pixels keep their sign
    # weights 1, 2, 1 of the three frames between onset and offset, the fourth is padding
    np.testing.assert_allclose(scores.column("event_share", "key frames", TRAINED, clips), 1)
    assert np.isnan(scores.column("own", "key frames", TRAINED, clips)).all()


def test_action_unit_regions(run: types.SimpleNamespace):
    scores = map_scores.read_scores(run.workdir / map_scores.SCORES)
    clips = list(run.tested_in)
    share = scores.column("au_share", GRADIENTS, TRAINED, clips)
    area = scores.column("au_area", GRADIENTS, TRAINED, clips)
    assert (share > area).all()  # brows are in the upper quarters, the mouth in the lower ones
    assert map_scores.summarise(scores)[GRADIENTS]["au"]["uniform"]["low"] > 0


def test_panels_and_tables(run: types.SimpleNamespace, tmp_path: Path):
    with np.load(run.workdir / map_scores.MAPS) as file:
        panels = {name: file[name] for name in file.files}
    assert panels["frames"].shape == (attribution.SHOWN, 3, SIDE, SIDE)
    assert panels[f"map {GRADCAM}"].shape == (attribution.SHOWN, 1, SIDE, SIDE)
    assert "map key frames" not in panels
    assert sorted({t.split()[0] for t in panels["title"].tolist()}) == list(CLASSES)
    np.testing.assert_allclose(panels["moving"].mean((1, 2)), 0.1, atol=0.001)
    page = Page(tmp_path)
    scores = map_scores.read_scores(run.workdir / map_scores.SCORES)
    map_figures.maps_section(page, panels, scores)
    text = page.text("maps")
    assert (tmp_path / "maps_1.png").exists()
    assert not (tmp_path / "maps_2.png").exists()
    expected = (
        "Where the networks look",
        "true onset, apex and offset",
        "12 clips with a blink",
        "−\N{NO-BREAK SPACE}random weights",
    )
    assert all(words in text for words in expected)
    assert not any(str(place) in text for place in (tmp_path, run.workdir))
    assert any(line.startswith(f"  {GRADCAM} (24 clips): ") for line in map_figures.lines(scores))


def test_features_of_the_tested_clips(run: types.SimpleNamespace, tmp_path: Path):
    with np.load(run.workdir / FEATURES) as file:
        panels = {name: file[name] for name in file.files}
    assert sorted(panels["clip"].tolist()) == sorted(run.tested_in)
    assert panels["pca"].shape == panels["tsne"].shape == (24, 2)
    np.testing.assert_array_equal(panels["predicted"], panels["label"])  # the network knows the class
    assert panels["agreement"][0] > 0.99  # one network for all folds
    assert panels["near"][0] > 0.9
    assert panels["near"][1] == pytest.approx(0.25)
    page = Page(tmp_path)
    feature_figures.features_section(page, panels, CLASSES)
    text = page.text("features")
    assert "6 folds have 6 networks" in text
    assert {p.name for p in tmp_path.iterdir()} == {"features_pca.png", "features_tsne.png"}


def test_a_run_without_splits(tmp_path: Path):
    with pytest.raises(UserError, match=r"found no splits\.csv"):
        attribution.write_maps(types.SimpleNamespace(tested_in={}, workdir=tmp_path))


def test_a_map_of_a_part_of_the_frame():
    whole = attribution.placed(np.ones((2, 2)), (0.25, 0.75), 16)
    assert whole[4:12, 4:12].min() == 1
    assert whole.sum() == 64
