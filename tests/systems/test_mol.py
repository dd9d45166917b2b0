"""MOL: what it looks at, what it is trained on, how it is measured; and that it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from configs import mol as config
from mer_jax import systems
from mer_jax.data import motion
from mer_jax.data.augment import MIRROR_IBUG
from mer_jax.data.clips import AU_SLOTS, MODALITIES
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import mol
from mer_jax.training import optimizer
from mer_jax.training.state import TrainState
from mer_jax.training.step import make_step

SIZE, CROP, STEPS = 32, 24, 50
LENGTHS = (9, 26, 13, 3, 8, 17, 30, 12)
CHANGES = {"flip_p": 0.0, "rotate_deg": 0.0, "shift_px": 4, "brightness": 0.0, "contrast": 0.0}


def settings(words: str = "", **changes: Any) -> Settings:
    """Tiny settings; `data.size=32` pixels seen through 24, sequences of 4 frames."""
    made = config.get_config(",".join(filter(None, ["tiny,ft.flow_pairs=0", words])))
    for name, value in changes.items():
        made.ft[name].update(value)
    return Settings(made.to_dict())


@pytest.fixture(scope="module")
def store() -> ClipStore:
    """Clips whose frames, landmarks and flow are all one pattern: value (y, x, t) says where and when it was read."""
    start = np.cumsum([0, *LENGTHS[:-1]])
    n = len(LENGTHS)
    y, x = np.mgrid[:SIZE, :SIZE]
    time = np.concatenate([np.arange(length) for length in LENGTHS])
    frames = (4 * x + 2 * y + time[:, None, None])[..., None]
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(4, 28, (n, 68, 2))[np.repeat(np.arange(n), LENGTHS)] + 0.01 * time[:, None, None]
    pairs = [motion.pair_positions(length, 4, 2) for length in LENGTHS]
    flow = np.stack([np.broadcast_to(x, (SIZE, SIZE)), np.broadcast_to(y, (SIZE, SIZE))], axis=-1)
    first = np.concatenate([p[:, 0] for p in pairs])
    fields = 0.01 * flow + first[:, None, None, None]
    facts = dict.fromkeys(("true_onset", "true_apex", "true_offset"), jnp.full(n, -1))
    return ClipStore(
        frames=jnp.asarray(frames, jnp.uint8),
        start=jnp.asarray(start, jnp.int32),
        length=jnp.asarray(LENGTHS, jnp.int32),
        fps=jnp.full(n, 100.0),
        onset=jnp.ones(n, jnp.int32),
        apex=jnp.full(n, -1),
        offset=jnp.asarray(LENGTHS, jnp.int32) - 1,
        modality=jnp.full(n, MODALITIES.index("grey"), jnp.int32),
        label=jnp.arange(n, dtype=jnp.int32) % 3,
        action_units=jnp.asarray(rng.integers(-1, 2, (n, AU_SLOTS)), jnp.int8),
        landmarks=jnp.asarray(landmarks, jnp.float32),
        motion={
            "flow_pairs": jnp.asarray(fields, jnp.float16),
            "flow_pairs_start": jnp.asarray(np.cumsum([0, *[len(p) for p in pairs[:-1]]]), jnp.int32),
        },
        **facts,
    )


def time_of(frames: Any) -> list[int]:
    """Frame numbers of frames [T, S, S, 1] of `store` in the centre crop."""
    corner = (SIZE - CROP) // 2
    return (np.asarray(frames)[:, 0, 0, 0] * 255 - 6 * corner).round().astype(int).tolist()


# -- views -------------------------------------------------------------------------------------------------------------


def test_evaluation_goes_through_the_phases(store: ClipStore) -> None:
    """r = length // 4; of more than two phases two are looked at; a short clip is spread evenly."""
    system = systems.build(settings("model.sequences=2"), 3)
    assert system.n_views == 2
    assert system.oracle_inputs == "none"
    look = jax.jit(lambda i, v: system.view(store, i, v, False))
    expected = {
        0: [[0, 2, 4, 6], [1, 3, 5, 7]],  # 9 frames, r = 2
        1: [[0, 6, 12, 18], [3, 9, 15, 21]],  # 26 frames, r = 6: phases 0 and 3
        3: [[0, 1, 1, 2], [0, 1, 1, 2]],  # 3 frames
        4: [[0, 2, 4, 6], [1, 3, 5, 7]],
    }
    for clip, views in expected.items():
        for number, times in enumerate(views):
            example = look(jnp.int32(clip), jnp.int32(number))
            assert time_of(example["frames"]) == times
            assert example["frames"].shape == (4, CROP, CROP, 1)
            first = np.asarray(example["flow"])[:, 0, 0, 0] - 0.04
            np.testing.assert_allclose(first, times[:-1], atol=0.01)  # the flow that begins at each frame but the last
            rows = int(store.start[clip]) + np.array(times[1:])  # landmarks of frames 2 .. T
            np.testing.assert_allclose(example["landmarks"], store.landmarks[rows] - 4, atol=1e-4)
            assert int(example["label"]) == clip % 3


def test_phases_of_the_event_alone(store: ClipStore) -> None:
    system = systems.build(settings("extent=onset_offset"), 3)
    assert system.oracle_inputs == "boundaries"
    assert systems.build(settings("data.extent=onset_offset"), 3).oracle_inputs == "boundaries"  # clips are cut there
    assert time_of(system.view(store, jnp.int32(0), jnp.int32(0), False)["frames"]) == [1, 3, 5, 7]
    (spec,) = system.needs.motion
    assert spec.extent == "onset_offset"


def test_training_draws_phases_and_crops(store: ClipStore) -> None:
    system = systems.build(settings("model.sequences=2"), 3)
    keys = jax.random.split(jax.random.key(0), 64)
    batch = jax.jit(jax.vmap(lambda k: system.view(store, jnp.int32(1), k, True)))(keys)
    corner = np.asarray(batch["frames"])[:, 0, 0, 0, 0] * 255
    phases = np.asarray(batch["flow"])[:, 0].mean((1, 2, 3)).round().astype(int)
    assert set(phases.tolist()) == {0, 3}
    offsets = {(int(c) - p) for c, p in zip(corner.round(), phases, strict=True)}
    assert len(offsets) > 15  # of 81 crops


def test_some_pairs_of_a_step(store: ClipStore) -> None:
    """Which pairs have their flow estimated is drawn; the flow is theirs."""
    system = systems.build(settings("model.sequences=2,ft.flow_pairs=2", augment=CHANGES | {"shift_px": 0}), 3)
    keys = jax.random.split(jax.random.key(2), 32)
    batch = jax.jit(jax.vmap(lambda k: system.view(store, jnp.int32(0), k, True)))(keys)
    pairs = np.asarray(batch["pairs"])
    assert pairs.shape == (32, 2)
    assert {tuple(sorted(p)) for p in pairs.tolist()} == {(0, 1), (0, 2), (1, 2)}
    phase = (np.asarray(batch["frames"])[:, 0, 0, 0, 0] * 255 - 24).round()
    first = np.asarray(batch["flow"])[:, :, 0, 0, 0] - 0.04
    np.testing.assert_allclose(first, 2 * pairs + phase[:, None], atol=0.01)
    evaluated = system.view(store, jnp.int32(0), jnp.int32(0), False)
    assert "pairs" not in evaluated
    assert evaluated["flow"].shape[0] == 3


@pytest.mark.parametrize("change", [{}, {"flip_p": 1.0}, {"rotate_deg": 10.0, "flip_p": 0.5}])
def test_frames_landmarks_and_flow_move_together(store: ClipStore, change: dict[str, float]) -> None:
    """Read at a moved landmark, intensity and flow are what they were at the landmark, the vector turned with it."""
    system = systems.build(settings("model.sequences=2", augment=CHANGES | change), 3)
    keys = jax.random.split(jax.random.key(1), 8)
    batch = jax.jit(jax.vmap(lambda k: system.view(store, jnp.int32(0), k, True)))(keys)
    seen, flips, offsets = 0, 0, set()
    for b in range(8):
        frames, points, flow = (np.asarray(batch[k][b], np.float64) for k in ("frames", "landmarks", "flow"))
        flipped = frames[0, 12, 13, 0] < frames[0, 12, 12, 0]
        flips += flipped
        phase = int(np.linalg.norm(flow[0, 12, 12]) / 2**0.5)  # clip 0 has two
        for t in range(3):
            before = np.asarray(store.landmarks, np.float64)[2 * (t + 1) + phase]
            before = before[MIRROR_IBUG] if flipped else before
            affine, *_ = np.linalg.lstsq(np.c_[before, np.ones(68)], points[t], rcond=None)
            offsets.add(tuple(affine[2].round(3)))
            inside = ((points[t] >= 5) & (points[t] <= CROP - 6)).all(axis=1)
            at = points[t][inside][:, ::-1].T
            x, y = before[inside].T
            intensity = ndimage.map_coordinates(frames[t + 1, ..., 0] * 255, at, order=1)
            np.testing.assert_allclose(intensity, 4 * x + 2 * y + 2 * (t + 1) + phase, atol=0.05)
            vectors = np.stack([ndimage.map_coordinates(flow[t, ..., c], at, order=1) for c in (0, 1)], axis=-1)
            expected = (0.01 * before[inside] + 2 * t + phase) @ affine[:2]
            np.testing.assert_allclose(vectors, expected, atol=0.01)
            seen += inside.sum()
    assert seen > 200
    assert len(offsets) > 3
    assert {0.0: flips == 0, 1.0: flips == 8, 0.5: 0 < flips < 8}[change.get("flip_p", 0.0)]


def test_action_units(store: ClipStore) -> None:
    made = config.get_config("tiny")
    made.task, made.data.action_units = "au", (4, 12)
    system = systems.build(Settings(made.to_dict()), 2)
    example = system.view(store, jnp.int32(2), jnp.int32(0), False)
    np.testing.assert_array_equal(example["action_units"], store.action_units[2][np.array([4, 12])])
    outputs = {"logits": jnp.zeros((1, 2))}
    batch = {"action_units": jnp.array([[1, -1]])}
    loss, terms = system.finetune.objective(outputs, batch)
    np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
    assert set(terms) == {"L_e"}


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_are_of_the_training_clips(store: ClipStore) -> None:
    """Mean and deviation over all pixels of their frames, mean shape and mean flow in the centre crop."""
    mask = np.arange(len(LENGTHS)) % 3 == 1
    rows, clips = np.repeat(mask, LENGTHS), np.flatnonzero(mask)
    frames = np.asarray(store.frames, np.float64)[rows] / 255
    starts = np.append(np.asarray(store.motion["flow_pairs_start"]), len(store.motion["flow_pairs"]))
    fields = np.concatenate([np.asarray(store.motion["flow_pairs"])[starts[c] : starts[c + 1]] for c in clips])
    for how in ("std", "max"):
        system = systems.build(settings(f"model.normalise={how}"), 3)
        found = jax.jit(system.statistics)(store, jnp.asarray(mask))
        assert float(found["mean"]) == pytest.approx(frames.mean(), rel=1e-4)
        scale = frames.std() if how == "std" else frames.max() - frames.mean()
        assert float(found["scale"]) == pytest.approx(scale, rel=1e-3)
        np.testing.assert_allclose(found["shape"], np.asarray(store.landmarks)[rows].mean(0) - 4, rtol=1e-4)
        expected = fields.astype(np.float64).mean(axis=0)[4:28, 4:28]
        np.testing.assert_allclose(found["flow"], expected, rtol=1e-3)


def test_statistics_of_nothing_and_of_unknown_landmarks(store: ClipStore) -> None:
    system = systems.build(settings(), 3)
    none = jax.jit(system.statistics)(store, jnp.zeros(len(LENGTHS), bool))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(none))
    assert float(none["scale"]) == 1
    gaps = store.replace(landmarks=store.landmarks.at[3].set(jnp.nan))
    found = jax.jit(system.statistics)(gaps, jnp.arange(len(LENGTHS)) == 0)
    rows = [0, 1, 2, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(found["shape"], np.asarray(store.landmarks)[rows].mean(0) - 4, rtol=1e-4)


# -- objective and measures --------------------------------------------------------------------------------------------


def face(rng: np.random.Generator) -> np.ndarray:
    points = rng.uniform(0, 24, (68, 2))
    points[36:42], points[42:48] = rng.normal([6, 8], 0.5, (6, 2)), rng.normal([18, 9], 0.5, (6, 2))
    return points


@pytest.fixture(scope="module")
def example() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs and batch of two clips; one frame of the second has no landmarks."""
    rng = np.random.default_rng(5)
    truth = np.stack([[face(rng) for _ in range(3)] for _ in range(2)])
    truth[1, 2] = np.nan
    flow = 0.2 * rng.normal(size=(2, 3, CROP, CROP, 2))
    outputs = {
        "logits": rng.normal(size=(2, 3)),
        "flow": flow + 0.1 * rng.normal(size=flow.shape),
        "landmarks": np.where(np.isnan(truth), 5.0, truth) + rng.normal(size=truth.shape),
        "mean_flow": np.broadcast_to(0.05 * rng.normal(size=flow.shape[2:]), (2, CROP, CROP, 2)),
        "mean_shape": np.broadcast_to(face(rng), (2, 68, 2)),
    }
    frames = rng.uniform(size=(2, 4, CROP, CROP, 1))
    batch = {"label": np.array([2, 0]), "flow": flow, "landmarks": truth, "frames": frames}
    return outputs, batch


def as_jax(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if x.dtype == int else jnp.float32), tree)


def test_objective_is_the_sum_of_its_terms(example: Any) -> None:
    """L = L_e + 10 L_f + 0.1 L_m, from the formulas; the released L_f is divided by T - 1 = 3 once more."""
    outputs, batch = example
    weights = "ft.flow_weight=10.0,ft.landmark_weight=0.1"
    loss, terms = systems.build(settings(weights), 3).finetune.objective(*as_jax(example))
    for b in range(2):
        logits, label = outputs["logits"][b], batch["label"][b]
        l_e = np.log(np.exp(logits).sum()) - logits[label]
        l_f = np.mean([((outputs["flow"][b, k] - batch["flow"][b, k]) ** 2).mean() for k in range(3)])
        frames = []
        for k in range(3 - b):
            truth = batch["landmarks"][b, k]
            d = np.linalg.norm(truth[36:42].mean(0) - truth[42:48].mean(0))
            frames.append(np.abs(outputs["landmarks"][b, k] - truth).sum() / d / 68)
        l_m = 3 * np.mean(frames)  # where no frame is unknown: the sum over the frames
        expected = {"L_e": l_e, "L_f": l_f, "L_m": l_m}
        assert {k: float(v[b]) for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)
        assert float(loss[b]) == pytest.approx(l_e + 10 * l_f + 0.1 * l_m, rel=1e-4)
    released = systems.build(settings(f"{weights},ft.flow_loss=released,ft.flow_weight=3.0"), 3)
    again, other = released.finetune.objective(*as_jax(example))
    np.testing.assert_allclose(other["L_f"], terms["L_f"] / 3, rtol=1e-5)
    np.testing.assert_allclose(again, terms["L_e"] + terms["L_f"] + 0.1 * terms["L_m"], rtol=1e-4)


def test_unknown_landmarks_have_no_gradient(example: Any) -> None:
    outputs, batch = as_jax(example)
    gradient = jax.grad(lambda p: mol.landmark_loss({"landmarks": p}, batch).sum())(outputs["landmarks"])
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient[1, 2]) == 0).all()
    assert (np.abs(gradient[0]) > 0).all()


def test_measures(example: Any) -> None:
    """EPE overall and where the target moves by 0.1 pixels, NME, and the same of what needs no network."""
    outputs, batch = example
    found = systems.build(settings(), 3).measures(*as_jax(example))
    rivals = {"": outputs["flow"], "_zero": 0 * outputs["flow"], "_mean": outputs["mean_flow"][:, None]}
    rivals["_translation"] = np.asarray(mol.translation(jnp.asarray(batch["frames"])))[:, :, None, None]
    for name, flow in rivals.items():
        for b in range(2):
            error = np.linalg.norm(flow[b] - batch["flow"][b], axis=-1)
            moving = np.linalg.norm(batch["flow"][b], axis=-1) >= 0.1
            assert 0.5 < moving.mean() < 0.99
            assert float(found[f"epe{name}"][b]) == pytest.approx(error.mean(), rel=1e-4)
            assert float(found[f"epe_moving{name}"][b]) == pytest.approx(error[moving].mean(), rel=1e-4)
            if name in ("", "_zero"):
                face = [f - f.mean((1, 2), keepdims=True) for f in (flow[b], batch["flow"][b])]
                error = np.linalg.norm(face[0] - face[1], axis=-1)
                assert float(found[f"epe_face{name}"][b]) == pytest.approx(error.mean(), rel=1e-4)
    for name, points in (("", outputs["landmarks"]), ("_mean", outputs["mean_shape"][:, None])):
        for b in range(2):
            truth = batch["landmarks"][b, : 3 - b]
            d = np.linalg.norm(truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1), axis=-1)
            points_b = np.broadcast_to(points[b], (3, 68, 2))[: 3 - b]
            errors = np.linalg.norm(points_b - truth, axis=-1).mean(-1) / d
            assert float(found[f"nme{name}"][b]) == pytest.approx(errors.mean(), rel=1e-4)
            if not name:
                assert float(found["nme_failure"][b]) == pytest.approx((errors > 0.1).mean())
    moved = batch | {"flow": batch["flow"] + np.array([3.0, -2.0], np.float32)}
    found_moved = systems.build(settings(), 3).measures(*as_jax((outputs, moved)))
    np.testing.assert_allclose(found_moved["epe_face"], found["epe_face"], rtol=1e-4)  # no shift of the head counts
    still = systems.build(settings("model.moving_px=100.0"), 3).measures(*as_jax(example))
    assert np.isnan(still["epe_moving"]).all()


def test_translation_of_a_shifted_pattern() -> None:
    """A smooth pattern moved by known parts of a pixel; frames without structure do not move."""
    y, x = np.mgrid[:32, :32]

    def seen(dx: float, dy: float) -> np.ndarray:
        return 0.5 + 0.2 * np.sin(0.4 * (x - dx)) + 0.2 * np.cos(0.3 * (y - dy) + 0.1 * (x - dx))

    frames = np.stack([seen(0, 0), seen(0.3, -0.1), seen(0.1, 0.2)]).astype(np.float32)
    found = mol.translation(jnp.asarray(np.stack([frames, 0 * frames]))[..., None])
    np.testing.assert_allclose(found[0], [[0.3, -0.1], [-0.2, 0.3]], atol=0.02)
    np.testing.assert_array_equal(found[1], 0)


# -- network -----------------------------------------------------------------------------------------------------------


def count(words: str, classes: int) -> tuple[int, dict[str, int]]:
    made = Settings(config.get_config(words).to_dict())
    size = made.data.crop
    batch: Any = {"frames": jax.ShapeDtypeStruct((1, made.model.frames, size, size, 1), jnp.float32)}
    module = mol.build_network(made, classes)
    params = jax.eval_shape(lambda b: module.init(jax.random.key(0), b, False), batch)["params"]
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in params.items()}
    return sum(sizes.values()), sizes


def test_released_size() -> None:
    """The released parameter totals, for 5 and for 3 classes."""
    total, sizes = count("released", 5)
    assert total == 44_105_379
    assert total - sizes["classifier"] + 3 * 257 == 44_104_865
    assert sizes["conv_stack"] == 19_048
    assert sizes["f5c_first"] == sizes["f5c_second"] == 17_794 + 131_584
    assert sizes["flow"] == 39_730_282
    assert sizes["landmarks"] == 3_318_440
    assert sizes["recognition"] + sizes["classifier"] == 738_853


def test_tasks_and_blocks_can_be_left_out() -> None:
    """What the ablations leave out leaves nothing behind."""
    _, alone = count("tiny,model.flow=False,model.landmarks=False,model.share_f5c=True", 3)
    assert set(alone) == {"conv_stack", "f5c", "recognition", "classifier"}
    _, bare = count("tiny,model.fcc=none,ccc=none", 3)
    assert set(bare) == {"conv_stack", "flow", "landmarks", "recognition", "classifier"}
    system = systems.build(settings("model.flow=False,model.landmarks=False"), 3)
    assert system.needs.motion == ()
    assert not system.needs.landmarks


def test_every_row_of_the_tables_is_a_network() -> None:
    for table in config.ROWS.values():
        for fields in table.values():
            words = ",".join(f"{k}={v}" for k, v in fields.items() if k != "seeds")
            systems.build(Settings(config.get_config(f"tiny,width=0.125,{words}").to_dict()), 3)


def test_weights_to_start_from_leave_the_classifier(store: ClipStore) -> None:
    made = config.get_config("tiny")
    assert systems.build(Settings(made.to_dict()), 3).finetune.carry == ()
    made.init_from = "somewhere"
    stage = systems.build(Settings(made.to_dict()), 3).finetune
    _, sizes = count("tiny", 3)
    assert set(stage.carry) == set(sizes) - {"classifier"}
    made.ft.carry_classifier = True
    assert set(systems.build(Settings(made.to_dict()), 3).finetune.carry) == set(sizes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.crop=20", "data.crop: found 20; expected a multiple of 8"),
        ("data.crop=40", "data.crop: found 40; expected 16 to 32"),
        ("ccc=spatial", "model.ccc: found 'spatial'"),
        ("model.frames=3", "model.frames: found 3"),
        ("model.k=8", "model.k: found 8; expected 1 to 7"),
    ],
)
def test_mistakes_are_named(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        systems.build(settings(words), 3)


def test_learns_eight_clips_and_every_task_teaches_the_trunk(
    store: ClipStore, random_variables: Callable, quick: Callable
) -> None:
    """All eight right, flow and landmarks better than their baselines; both tasks' gradients reach the shared stack."""
    made = settings(
        "model.width=0.125,model.dropout=0.0,model.sequences=2",
        optimizer={"schedule": "constant", "warmup_steps": 0, "learning_rate": 4e-3, "weight_decay": 0.0},
    )
    system, rng = systems.build(made, 3), np.random.default_rng(8)
    noise = jnp.asarray(rng.integers(0, 120, (store.frames.shape[0], SIZE, SIZE, 1)), jnp.uint8)
    noisy = store.replace(frames=store.frames // 2 + noise)
    batch = quick(jax.vmap(lambda i: system.view(noisy, i, jnp.int32(0), False)), jnp.arange(8))
    batch["flow"] = jnp.broadcast_to(rng.normal(size=(8, 1, 1, 1, 2)), batch["flow"].shape).astype(jnp.float32)
    names = ("L_e", "L_f", "L_m")

    def weighted(outputs: Any, batch: Any) -> Any:
        """The terms with the weights that the batch brings."""
        terms = system.objective(outputs, batch)[1]
        return sum(batch["weights"][:, i] * terms[name] for i, name in enumerate(names)), terms

    def weigh(*weights: float) -> Any:
        return {**batch, "weights": jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (8, 3))}

    stage = dataclasses.replace(system.finetune, objective=weighted)
    variables = random_variables(stage.module, batch)
    variables["constants"] = {
        "statistics": {**system.statistics(noisy, jnp.ones(8, bool)), "flow": batch["flow"][0, 0]}
    }
    tx = optimizer.build(stage.optimizer, STEPS, STEPS)
    state, step = TrainState.create(variables, tx, 0.0), jax.jit(make_step(stage, tx))
    for task in range(3):
        after, _ = step(state, weigh(*np.eye(3)[task]), jax.random.key(0))
        for module in ("conv_stack", "f5c"):
            moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params[module], state.params[module])
            assert max(jax.tree.leaves(moved)) > 1e-3, (names[task], module)
    for i in range(STEPS):
        state, _ = step(state, weigh(1.0, 1.0, 0.3), jax.random.key(i))
    outputs = quick(lambda v: stage.module.apply(v, batch, False), state.variables)
    assert outputs["logits"].argmax(-1).tolist() == batch["label"].tolist()
    found = {k: float(v.mean()) for k, v in system.measures(outputs, batch).items()}
    assert found["epe"] < 0.7 * min(found["epe_zero"], found["epe_mean"])
    assert found["nme"] < 0.7 * found["nme_mean"]
