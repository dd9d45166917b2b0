"""Every dataset has its four files, says how to obtain it, and can be looked up without TensorFlow."""

import subprocess
import sys

import pytest

from tfds_builders import build

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
