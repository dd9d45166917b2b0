"""The benchmarks of the configs name datasets, label sets and protocols that exist and fit each other."""

import pytest

from configs import common
from mer_jax.evaluation import labels, protocols
from mer_jax.evaluation.datasets import canonical
from tfds_builders import build


@pytest.mark.parametrize("word", sorted(common.BENCHMARKS))
def test_benchmark(word, tmp_path):
    data = common.BENCHMARKS[word]
    assert data["protocol"] in protocols.PROTOCOLS
    wanted = set(labels.datasets_of(data["labels"]))
    for name in data["name"].split("+"):
        builder = build.make_builder(name, tmp_path)  # refuses unknown datasets and configs
        written = name.replace("/", "_") if name.split("/")[0] in ("smic", "casme3") else builder.name
        assert canonical(written) in wanted
    assert len(wanted) == len(data["name"].split("+"))
