"""Run by test_pretrain in fresh interpreters: toy pre-training and toy folds over all devices of all processes."""

import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    directory, port, processes, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    jax.distributed.initialize(f"localhost:{port}", processes, process)

    from mer_jax.training import checkpoint, folds, mesh, pretrain, waves
    from mer_jax.training.monitor import Monitor
    from tests.training import test_pretrain, test_waves, toy

    assert jax.device_count() == 8
    for stage in ("pretrain", "folds"):
        (directory / stage).mkdir(exist_ok=True)

    engine = pretrain.PretrainEngine(toy.ToySystem(), test_pretrain.SETTINGS)
    rolling = checkpoint.Rolling(directory / "pretrain" / "pretrain")
    monitor = Monitor(directory / "pretrain", mesh.is_writer())
    stream = toy.Stream(test_pretrain.SETTINGS.batch, process=process, processes=processes)
    pretrain.pretrain(engine, stream, dict, rolling, monitor, mesh.Preemption(), {})
    rolling.close()

    protocol = folds.FoldEngine(toy.ToySystem(), toy.store(), toy.folds(), test_waves.SETTINGS)
    rolling = checkpoint.Rolling(directory / "folds" / "wave")
    finished = checkpoint.Finished(directory / "folds" / "folds")
    waves.train_folds(protocol, toy.clip_names(), rolling, finished, monitor, test_pretrain.Stop())
    rolling.close()
    finished.close()
    monitor.close()
