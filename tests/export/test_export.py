"""Exported networks say what the engine says, whatever the number of clips and frames."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from mer_jax import systems
from mer_jax.analysis.networks import Network, open_network
from mer_jax.data import motion, packed
from mer_jax.errors import UserError
from mer_jax.export import artifact, load, network
from mer_jax.export.__main__ import main
from mer_jax.predict.ensemble import Ensemble
from tests.made_up_runs import SYSTEMS, random_variables, settings_with, write_run

CLASSES = ("happiness", "disgust", "repression", "surprise", "others")
INPUTS = {
    "akmnet": {"frames", "onset", "offset", "fps"},
    "atnet": {"frames", "onset", "apex", "offset", "flow_grid"},
    "fdp": {"frames", "length"},
    "mol": {"frames", "length"},
    "ststnet": {"flow_image"},
}
METRICS = {
    "select": "last", "comparable": True, "oracle_inputs": "boundaries+apex", "n": 25, "persons": 5, "classes": CLASSES,
    "overall": {"uf1": {"mean": 0.4321, "std": 0.0, "low": 0.3111, "high": 0.5999}},
    "per_class": {"disgust": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 6}},
    "notes": ["7 macro clips of tested persons were left out of pre-training"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(SYSTEMS) - {"ma2mi"}))  # which is exported below
def test_every_system_is_one_program_for_any_number_of_clips(name):
    """Traced with symbolic numbers of clips and frames; what it does not read it does not ask for."""
    system = systems.build(settings_with(name), len(CLASSES), 2)
    given = network.possible_inputs(system)
    f = functools.partial(network.probabilities, system, random_variables(system, 0))
    assert set(network.used_inputs(system, given, f)) == INPUTS[name]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = write_run(tmp_path_factory.mktemp("runs") / "ma2mi", "ma2mi", CLASSES)
    (root / "metrics.json").write_text(json.dumps(METRICS))
    return root


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "ma2mi"
    assert main([str(run), str(out)]) == 0
    return out


def clips(n, t):
    rng = np.random.default_rng(n)
    numbers = {"onset": np.zeros(n), "apex": rng.integers(1, t, n), "offset": np.full(n, t - 1)}
    numbers["apex"][0] = -1  # unknown: the middle is taken
    frames = rng.integers(0, 255, (n, t, 32, 32, 3)).astype(np.uint8)
    return {"frames": frames, **{k: x.astype(np.int32) for k, x in numbers.items()}}


def test_a_reloaded_export_says_what_the_engine_says(run, exported):
    given, again, ensemble = clips(2, 5), load(exported), Ensemble(run)
    store = packed.pack(
        **given, length=np.full(2, 5, np.int32), fps=np.full(2, 50.0, np.float32), motion={}, landmarks=False
    )
    expected = ensemble.probabilities(store, ensemble.names)
    np.testing.assert_allclose(again(**given), expected, atol=1e-6)
    assert again.classes == CLASSES
    assert set(again.inputs) == {"frames", "onset", "apex", "offset"}
    assert again.network.platforms == ("cpu", "tpu", "cuda")
    # other numbers of clips and frames: three clips, with frames after the offset that nothing reads
    more = {k: np.concatenate([x, x[:1]]) for k, x in given.items()}
    more["frames"] = np.pad(more["frames"], ((0, 0), (0, 4), (0, 0), (0, 0), (0, 0)))
    np.testing.assert_allclose(again(**more), np.concatenate([expected, expected[:1]]), atol=1e-6)


def test_facts_and_card_hold_what_a_user_needs(exported):
    facts = load(exported).facts
    assert facts["folds"] == ["p001", "p002"]
    assert facts["inputs"]["frames"] == {
        "shape": ["b", "t", 32, 32, 3], "dtype": "uint8", "meaning": facts["inputs"]["frames"]["meaning"]
    }  # fmt: skip
    assert facts["preprocessing"]["align"] == "none"
    assert facts["preprocessing"]["time_scale_seconds"]["event"] == [0.1, 0.2, 0.4]
    card = (exported / "model_card.md").read_text()
    for text in (
        "| UF1 | 0.432 | 0.311 to 0.600 |", "| disgust | 0.500 | 0.250 | 0.333 | 6 |",
        "probabilities assume an expression",
        "25 clips of 5 persons", "Not intended", "procedurally rendered faces", "7 macro clips of tested persons",
        "np.zeros((2, 30, 32, 32, 3), \"uint8\")",
    ):  # fmt: skip
        assert text in card, text


def test_wrong_inputs_are_named(exported):
    network_, given = load(exported), clips(2, 5)
    with pytest.raises(UserError, match="found the inputs frames; expected apex, frames, offset, onset"):
        network_(frames=given["frames"])
    with pytest.raises(UserError, match=r"input onset: found int64 \[2\]; expected int32"):
        network_(**given | {"onset": given["onset"].astype(np.int64)})
    with pytest.raises(UserError, match=r"found uint8 \[2, 5, 32, 32, 3\]; .* the same b and t in all inputs"):
        network_(**given | {"apex": given["apex"][:1]})


def test_mistakes_end_in_one_message_and_code_2(run, exported, tmp_path, capsys):
    def refused(*arguments):
        assert main([str(a) for a in arguments]) == 2
        return capsys.readouterr().err

    assert "no finished fold 'p009'; there are p001, p002" in refused(run, tmp_path / "out", "--fold", "p009")
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty; give a new folder" in refused(run, tmp_path, "--fold", "p001")
    with pytest.raises(UserError, match=r"found no network\.stablehlo and network\.json"):
        load(run)
    whole = (exported / "network.stablehlo").read_bytes()
    (tmp_path / "network.stablehlo").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "network.json").write_text((exported / "network.json").read_text())
    with pytest.raises(UserError, match="the export cannot be read"):
        load(tmp_path)


def test_checkpoints_that_do_not_fit_are_refused_by_name(run, tmp_path):
    def altered(name, change):
        root = tmp_path / name
        root.mkdir()
        for part in run.iterdir():
            (root / part.name).symlink_to(part)
        (root / "config.json").unlink()
        (root / "manifest.json").unlink()
        config, manifest = (json.loads((run / f).read_text()) for f in ("config.json", "manifest.json"))
        change(config, manifest)
        (root / "config.json").write_text(json.dumps(config))
        (root / "manifest.json").write_text(json.dumps(manifest))
        return root

    def another_system(config, manifest):
        config.clear()
        config.update(settings_with("ststnet").to_dict())

    def more_classes(config, manifest):
        config["data"]["labels"] = "own"
        manifest["classes"] = [*CLASSES, "contempt"]

    def unknown_class(config, manifest):
        manifest["classes"][0] = "hapiness"

    with pytest.raises(
        UserError, match=r"is not one of ststnet as config\.json describes it.*stream_1/mean is missing.*and 118 more"
    ):
        open_network(altered("system", another_system), "p001")
    with pytest.raises(UserError, match=r"with the 6 classes .*contempt of manifest\.json: params/head/linear/bias"):
        open_network(altered("more", more_classes), "p001")
    with pytest.raises(UserError, match="found the class 'hapiness'"):
        open_network(altered("unknown", unknown_class), "p001")


def test_damaged_arrays_are_refused(tmp_path):
    root = write_run(tmp_path / "run", "ststnet", CLASSES, persons=("p001",))
    fold = root / "checkpoints" / "finetune" / "folds" / "p001"
    data = max((p for p in (fold / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match=r"p001 cannot be read"):
        open_network(root, "p001")


def test_preprocessing_names_the_motion_that_is_read(tmp_path):
    root = write_run(tmp_path / "run", "ststnet", CLASSES, persons=("p001",))
    found = artifact.preprocessing(root, open_network(root, "p001"))
    spec = motion.MotionSpec("flow_image", side=10, border=settings_with("ststnet").model.border)
    assert found["motion"]["flow_image"]["side"] == spec.side
    assert json.dumps(found)


def test_pictures_of_flow_are_no_frames():
    """A network of the released pictures says what its three channels are."""
    settings = settings_with("ststnet", model__input="pictures", data__size=10)
    system = systems.build(settings, len(CLASSES), 2)
    network_ = Network(settings, system, CLASSES, random_variables(system, 0), {})
    _, inputs = network.export([network_])
    assert set(inputs) == {"frames"}
    assert inputs["frames"]["meaning"].endswith("channels u, v, strain")
    assert artifact.preprocessing(Path("nowhere"), network_)["colour"].startswith("none: channels are flow u")
