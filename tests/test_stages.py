"""Where the weights that a run starts from are looked for."""

import pytest

from mer_jax import stages


@pytest.mark.parametrize(
    ("made", "seed", "expected"),
    [
        (("seed_0", "seed_1"), 1, "checkpoints/seed_1/pretrain"),
        (("seed_0",), 1, "checkpoints/seed_0/pretrain"),  # the seeds of that run share one
        ((".",), 2, "checkpoints/pretrain"),  # one seed, or imported weights
        ((), 0, ""),
    ],
)
def test_weights_are_found_for_every_seed(tmp_path, made, seed, expected):
    for name in made:
        (tmp_path / "checkpoints" / name / "pretrain").mkdir(parents=True)
    for name in ("seed_0", "seed_1"):
        (tmp_path / "checkpoints" / name / "finetune").mkdir(parents=True, exist_ok=True)
    assert stages._initial_directory(str(tmp_path), seed) == tmp_path / expected
