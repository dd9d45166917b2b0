"""The benchmarks of the configs name datasets, label sets and protocols that exist and fit each other."""

import pytest

from configs import common, ma2mi
from mer_jax.evaluation import labels, protocols
from mer_jax.evaluation.datasets import canonical
from mer_jax.evaluation.label_set import ActionUnitSet
from tfds_builders import build


@pytest.mark.parametrize("word", sorted(common.BENCHMARKS))
def test_benchmark(word, tmp_path):
    data = common.BENCHMARKS[word]
    assert data["protocol"] in protocols.PROTOCOLS
    label_set = labels.get(data["labels"])
    assert isinstance(label_set, ActionUnitSet) == (data.get("task") == "au")
    wanted = set(labels.datasets_of(data["labels"]))
    for name in data["name"].split("+"):
        builder = build.make_builder(name, tmp_path)  # refuses unknown datasets and configs
        written = (
            name.replace("/", "_") if name.split("/")[0] in ("smic", "casme3", "synthetic_faces") else builder.name
        )
        assert canonical(written) in wanted
    assert len(wanted) == len(data["name"].split("+"))


def test_a_benchmark_sets_data_and_task():
    config = ma2mi.get_config("scratch,cd6me")
    assert (config.task, config.data.protocol, config.data.labels) == ("au", "cd6me", "cd6me")
    assert config.data.name.count("+") == 5
    assert ma2mi.get_config("cd6me,casme2_5").task == "emotion"
