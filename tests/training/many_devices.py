"""Run by test_pretrain in fresh interpreters: toy pre-training and toy folds over all devices of all processes."""

import dataclasses
import json
import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    directory, port, processes, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    jax.distributed.initialize(f"localhost:{port}", processes, process)

    from mer_jax.errors import Preempted
    from mer_jax.training import checkpoint, folds, mesh, pretrain, topology, waves
    from mer_jax.training.monitor import Monitor
    from tests.training import test_pretrain, test_waves, toy

    assert jax.device_count() == 8
    for stage in ("pretrain", "sharded", "folds"):
        (directory / stage).mkdir(exist_ok=True)

    engine = pretrain.PretrainEngine(toy.ToySystem(), test_pretrain.SETTINGS)
    rolling = checkpoint.Rolling(directory / "pretrain" / "pretrain")
    monitor = Monitor(directory / "pretrain", mesh.is_writer())
    stream = toy.Stream(test_pretrain.SETTINGS.batch, process=process, processes=processes)
    pretrain.pretrain(engine, stream, dict, rolling, monitor, mesh.Preemption(), {})
    rolling.close()

    mesh.SMALL = 256
    sharded = dataclasses.replace(test_pretrain.SETTINGS, shard_params=True, remat="products")
    engine = pretrain.PretrainEngine(toy.WideSystem(), sharded)
    rolling = checkpoint.Rolling(directory / "sharded" / "pretrain")
    found = pretrain.pretrain(engine, stream, dict, rolling, monitor, mesh.Preemption(), {})["params"]
    shares = {k: [v["kernel"].sharding.shard_shape(v["kernel"].shape)] for k, v in found.items() if "kernel" in v}
    assert shares == {"Dense_0": [(192 // 8, 64)], "Dense_1": [(64, toy.CLASSES)]}
    rolling.close()

    # stopped by all processes at once and continued: to the bit where it would have come without
    for stop in (2, None):
        rolling = checkpoint.Rolling(directory / "sharded" / "stopped")
        try:
            found = pretrain.pretrain(engine, stream, dict, rolling, monitor, test_pretrain.Stop(stop), {})
        except Preempted:
            assert rolling.latest() == 10
        rolling.close()

    if processes == 1:  # what is sent between devices
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in stream(0).items()}
        sent = {
            "whole": topology.pretraining(toy.WideSystem(), test_pretrain.SETTINGS, shapes, jax.devices()),
            "sharded": topology.pretraining(toy.WideSystem(), sharded, shapes, jax.devices()),
        }
        length = dataclasses.replace(test_waves.SETTINGS, chunk_mode="dispatch", folds_per_device=1)
        programs = topology.folds(toy.ToySystem(), length, toy.store(), 4, jax.devices())
        sent |= {f"folds{i}": program for i, program in enumerate(programs)}
        (directory / "sent.json").write_text(json.dumps({k: v.collectives for k, v in sent.items()}))

    protocol = folds.FoldEngine(toy.ToySystem(), toy.store(), toy.folds(), test_waves.SETTINGS)
    for place, stops in (("folds", (None,)), ("stopped", (2, None))):  # as above: stopped and continued, to the bit
        rolling = checkpoint.Rolling(directory / place / "wave")
        finished = checkpoint.Finished(directory / place / "folds")
        for stop in stops:
            try:
                waves.train_folds(protocol, toy.clip_names(), rolling, finished, monitor, test_pretrain.Stop(stop))
            except Preempted:
                assert rolling.restore(rolling.latest())[1]["step"] == 10
        rolling.close()
        finished.close()
    monitor.close()
