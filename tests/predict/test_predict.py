"""From frames to tables and pictures, with the networks of a run that was made up."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mer_jax.analysis import figures
from mer_jax.analysis.networks import open_network
from mer_jax.data import align, apex, motion, packed
from mer_jax.errors import UserError
from mer_jax.evaluation import labels
from mer_jax.predict import ASSUMPTION, Options, Predictor
from mer_jax.predict.__main__ import main
from mer_jax.predict.ensemble import Ensemble
from mer_jax.predict.recordings import Recording
from mer_jax.predict.windows import Cutter, Rhythm
from mer_jax.systems import build
from tests.made_up_runs import DATASET, settings_with, write_frames, write_run

CLASSES = labels.get("synthetic_6").classes
FPS = 50.0  # of the made-up training clips; a window has 0.2 s = 10 frames, a stride 0.05 s


def moving(count=40, side=32):
    """A blob that comes and goes over noise, uint8 [T, side, side, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    level = np.maximum(np.sin(np.arange(count) / 5), 0)
    blob = np.exp(-((x - 20) ** 2 + (y - 12) ** 2) / 20)
    return np.clip(60 + 120 * level[:, None, None, None] * blob[..., None] + rng.normal(0, 2, (count, side, side, 3)), 0, 255).astype(np.uint8)  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "ma2mi", "ma2mi", CLASSES, data__labels="synthetic_6")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("videos") / "anna", moving())


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, Options(batch=4, threshold=0.7, shortest=0.0))


@pytest.fixture(scope="module")
def prediction(predictor, video):
    return predictor.predict(Recording("anna", video, FPS))


def cut(video, rhythm, alignment=align.NONE, fps=FPS, landmarker=None, **fields):
    settings = settings_with("ma2mi")
    cutter = Cutter(settings, build(settings, 5), alignment, landmarker)
    return list(cutter.windows(Recording("anna", video, fps, **fields), rhythm))


def test_windows_slide_at_the_time_scale_of_the_training_clips(predictor, prediction):
    rhythm = predictor.rhythm
    assert (rhythm.window, rhythm.stride, rhythm.shortest, rhythm.rates) == (0.2, 0.05, 0.1, (50.0,))
    assert prediction.frames[:4].tolist() == [[0, 9], [2, 11], [5, 14], [8, 17]]  # every 2.5 frames
    assert prediction.frames[-1].tolist() == [30, 39]
    assert prediction.decoded == 40


def test_probabilities_are_the_mean_of_the_folds_on_first_and_strongest_frame(run, prediction):
    frames = moving()[5:15]
    store = packed.pack(
        frames[None], length=np.array([10]), onset=np.array([0]), apex=np.array([-1]), offset=np.array([9]),
        fps=np.array([50.0]), motion={}, landmarks=False,
    )  # fmt: skip
    strongest = int(apex.apex_positions("spotted", store)[0])
    assert prediction.apex[2] == 5 + strongest
    batch = {"first": frames[None, 0] / np.float32(255), "second": frames[None, strongest] / np.float32(255)}
    logits = [np.asarray(open_network(run, fold).apply(batch)["logits"][0], float) for fold in ("p001", "p002")]
    expected = np.mean([np.exp(x) / np.exp(x).sum() for x in logits], axis=0)
    np.testing.assert_allclose(prediction.probability[2], expected, atol=1e-5)
    np.testing.assert_allclose(prediction.expression, 1 - prediction.probability[:, -1])


def test_frames_of_another_rate_are_brought_to_that_of_training(video):
    rhythm = Rhythm(0.2, 0.1, 0.1, (50.0, 100.0))
    same, slow = cut(video, rhythm)[1], cut(video, rhythm, fps=25.0)[1]
    np.testing.assert_array_equal(same.frames, moving()[5:15])
    assert (slow.first, slow.last, slow.rate, len(slow.frames)) == (2, 7, 50.0, 10)
    whole = moving().astype(float)
    np.testing.assert_array_equal(slow.frames[::2], moving()[2:7])
    np.testing.assert_allclose(slow.frames[1], (whole[2] + whole[3]) / 2, atol=0.5)


def test_short_recordings_are_one_window_and_shorter_ones_refused(video):
    rhythm = Rhythm(2.0, 0.5, 0.3, (50.0,))
    (window,) = cut(video, rhythm)
    assert (window.first, window.last, len(window.frames)) == (0, 39, 40)
    with pytest.raises(UserError, match=r"too short: 10 frames, 0\.200 s at 50 frames/s; expected at least 0\.300 s"):
        cut(video, rhythm, last=9)
    with pytest.raises(UserError, match="frame rate is unknown; give it with --fps"):
        cut(video, rhythm, fps=np.nan)


def test_an_event_with_key_frames_is_one_window(video):
    (window,) = cut(video, Rhythm(0.2, 0.1, 0.1, (50.0,)), fps=25.0, first=4, last=23, key_frames=(2, 5, 15))
    assert window.keys == (4, 10, 30)
    assert len(window.frames) == 39
    with pytest.raises(UserError, match="the offset is frame 30 of 20"):
        cut(video, Rhythm(0.2, 0.1, 0.1), last=19, key_frames=(2, -1, 30))


def test_faces_are_cut_out_as_in_training(video):
    """Each window by its first frame with a face, as a clip of the training data is."""
    rng = np.random.default_rng(0)
    shape = np.stack([np.linspace(6, 26, 68), rng.uniform(8, 20, 68)], -1)
    shape[36:48, 1], shape[27:31] = 10.0, [(16, 11), (16, 13), (16, 15), (16, 17)]
    shape[36:42, 0], shape[42:48, 0] = np.linspace(8, 13, 6), np.linspace(19, 24, 6)
    points = shape + np.arange(40)[:, None, None] * 0.1
    points[:12] = np.nan
    how = align.Alignment("clip", 2.5)
    given = cut(video, Rhythm(0.2, 0.1, 0.1), how, landmarks=points.astype(np.float32))
    assert [w.face for w in given[:3]] == [False, True, True]
    way = align.by_stable_points(points[12], 32, 2.5)
    np.testing.assert_array_equal(given[1].frames, [way.image(f) for f in moving()[5:15]])
    numbers = {moving()[t].tobytes(): t for t in range(40)}
    looked = []

    def landmarker(frame):
        looked.append(numbers[frame.tobytes()])
        return points[looked[-1]]

    found = cut(video, Rhythm(0.2, 0.1, 0.1), how, landmarker=landmarker)
    np.testing.assert_array_equal(found[1].frames, given[1].frames)
    assert len(looked) == len(set(looked))  # every frame at most once, though windows overlap
    with pytest.raises(UserError, match=r"needs landmarks: give --landmarks FILE, or --model"):
        cut(video, Rhythm(0.2, 0.1, 0.1), how)


def test_flow_is_computed_between_first_and_strongest_frame(video, monkeypatch):
    def difference(earlier, later, settings):  # takes no time
        change = later.astype(np.float32) - earlier
        return np.stack([change, -change], -1)

    monkeypatch.setattr(motion, "flow_fields", difference)
    settings = settings_with("ststnet")
    system = build(settings, 5)
    cutter = Cutter(settings, system, align.NONE)
    windows = list(cutter.windows(Recording("anna", video, FPS), Rhythm(0.2, 0.1, 0.1)))[:2]
    store = cutter.store(windows, 3)
    spec = system.needs.motion[0]
    expected = motion.clip_target(windows[1].frames, 0, int(store.apex[1]), 9, spec)
    assert expected.std() > 0
    np.testing.assert_array_equal(store.motion["flow_image"][1], expected)
    np.testing.assert_array_equal(store.motion["flow_image"][2], expected)  # the last one fills up


def test_only_folds_that_held_a_person_out_look_at_them(run):
    ensemble = Ensemble(run)
    assert ensemble.allowed("", "p002") == (["p002"], [f"{DATASET}/p002 is in the run's data: only folds that did not learn of them are used"])  # fmt: skip  # noqa: E501
    folds, notes = ensemble.allowed(DATASET, "p009")
    assert folds == ["p001", "p002"]
    assert "is not among the persons of the run" in notes[0]
    assert "no subject is named" in ensemble.allowed("", "")[1][0]
    folds, notes = Ensemble(run, fold="p001").allowed(DATASET, "p002")
    assert folds == ["p001"]
    assert "learnt from in p001: what is said of them is too good to be true" in notes[0]


def test_the_command_writes_tables_pictures_and_a_video(run, video, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    monkeypatch.setattr("mer_jax.predict.__main__.CACHE", str(tmp_path / "cache"))
    arguments = [str(run), str(video), "--fps", "50", "--subject", "p001", "--threshold", "0.6", "--batch", "4"]
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # the tests have a cache of their own
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "expression = 1 - p_neutral" in said
    with open(tmp_path / "out" / "probabilities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["recording", "window", "first_frame", "last_frame", "start_s", "end_s", "apex_frame", "expression"]  # fmt: skip  # noqa: E501
    assert sum(float(rows[3][f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)
    with open(tmp_path / "out" / "intervals.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["start_s"]) < float(row["end_s"])
            assert row["label"] in CLASSES[:-1]
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert facts["recordings"][0]["folds"] == ["p001"]
    assert str(Path.home()) not in json.dumps(facts)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"probabilities.csv", "intervals.csv", "prediction.json", "timeline.png", "strip.png", "annotated.mp4"}  # fmt: skip  # noqa: E501


def test_a_run_without_a_neutral_class_says_what_it_assumes(tmp_path, video, capsys, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    classes = (*CLASSES[:-1], "contempt")
    other = write_run(tmp_path / "run", "ma2mi", classes, persons=("p001",), data__labels="own")
    arguments = [str(other), str(video), "--fps", "50", "--batch", "4", "--no_video"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert ASSUMPTION in capsys.readouterr().out
    assert not (tmp_path / "out" / "intervals.csv").exists()


def test_mistakes_end_in_one_message_and_code_2(run, video, tmp_path, capsys):
    (run / "checkpoints" / "finetune" / "folds" / "p002").rename(tmp_path / "p002")
    np.save(tmp_path / "points.npy", np.full((40, 68, 2), np.nan, np.float32))
    plain = [str(run), str(video), "--fold", "p001", "--fps", "50"]
    try:
        for arguments, message in (
            ([str(run), str(video), "--fps", "50"], "found no checkpoint of the fold p002 that splits.csv names"),
            ([*plain[:2], *plain[4:], "--fold", "p003"], "no finished fold 'p003'"),
            ([*plain, "--landmarks", str(tmp_path / "points.npy")], "nothing would read them"),
            ([*plain, "--align", "clip", "--landmarks", str(tmp_path / "points.npy")], "no face found in any of"),
            (plain[:4], "frame rate is unknown"),
            ([str(run), str(video), "--threshold", "2"], "--threshold: found 2.0"),
            ([str(tmp_path), str(video), "--fps", "50"], "found no config.json"),
        ):
            assert main(arguments) == 2
            assert message in capsys.readouterr().err
    finally:
        (tmp_path / "p002").rename(run / "checkpoints" / "finetune" / "folds" / "p002")
