"""Every dataset has its four files, says how to obtain it, and can be looked up without TensorFlow."""

import importlib
import subprocess
import sys

import pytest

from mer_jax.evaluation.label_set import LabelSet
from mer_jax.evaluation.labels import REGISTRY
from tfds_builders import build
from tfds_builders.common import casme_squared_sheet
from tfds_builders.common.sheet_formats import FORMATS

WITH_DATA = [n for n in build.dataset_names() if build.builder_class(n).MANUAL_DOWNLOAD_INSTRUCTIONS]


def test_all_are_there():
    assert set(WITH_DATA) >= {
        "casme", "casme2", "samm", "smic", "casme_squared", "casme3", "mmew", "fourdme", "dfme", "samm_long_videos",
        "ck_plus", "oulu_casia", "mmi", "dfew", "afew", "ferv39k", "mafw", "mead",
    }  # fmt: skip


@pytest.mark.parametrize("name", WITH_DATA)
def test_folder_of_a_dataset(name, tmp_path):
    folder = build._HERE / name
    cls = build.builder_class(name)
    readme = (folder / "README.md").read_text()
    assert f"python -m tfds_builders.build {name}" in readme
    assert (folder / "TAGS.txt").is_file()
    if cls.custom_config is not None:
        return
    builder = cls(config=next((c.name for c in cls.BUILDER_CONFIGS), None), data_dir=str(tmp_path))
    assert builder.info.citation.startswith("@")  # TFDS reads the files, and checks the tags
    assert builder.info.description.startswith("# ")
    assert readme.split("\n")[0] == builder.info.description.split("\n")[0]


def test_builders_import_without_tensorflow():
    names = ", ".join(f"tfds_builders.{n}.{n}_dataset_builder" for n in WITH_DATA)
    code = f"import sys, {names}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def words_of(dataset):
    """Words that the builder of a dataset writes."""
    if dataset in FORMATS:
        return FORMATS[dataset].emotions
    if dataset == "casme_squared":
        return casme_squared_sheet.VALENCES
    name = "smic" if dataset.startswith("smic") else dataset
    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    words = module.EMOTIONS
    return tuple(words.values()) if isinstance(words, dict) else words


def test_label_sets_know_every_word_of_the_builders():
    checked = set()
    for label_set in REGISTRY.values():
        if not isinstance(label_set, LabelSet) or label_set.by != "emotion":
            continue
        for dataset, words in label_set.maps.items():
            if dataset.startswith("synthetic_faces") or dataset == "clip_folder":
                continue
            known = {*words, *label_set.dropped.get(dataset, {})}
            assert set(words_of(dataset)) <= known, (label_set.name, dataset, set(words_of(dataset)) - known)
            checked.add(dataset)
    assert checked >= {"casme", "casme2", "samm", "smic_hs", "casme3", "casme3_c", "mmew", "fourdme", "dfme", "ck_plus"}
