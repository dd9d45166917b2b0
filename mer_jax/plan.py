"""`--plan`: what a run would do, what it would need, how long it would take; nothing is trained."""

from __future__ import annotations

from typing import Any

import jax

from mer_jax import stages
from mer_jax.data.store import store_bytes
from mer_jax.prepare import Macro, Micro


def show(settings: Any, system: Any, micro: Micro, macro: Macro | None) -> None:
    """Prints the plan."""
    length = stages.fold_settings(settings, micro, settings.seeds[0])
    megabytes = store_bytes(micro.table, system.needs, settings.data.extent) / 2**20
    print(f"devices        {jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)")
    print(f"scored         {len(micro.rows)} clips of {len(set(micro.table.person.tolist()))} persons")
    print(f"folds          {len(micro.folds)} ({settings.data.protocol}), {length.steps} steps of {length.batch} clips")
    print(f"store          {megabytes:.0f} MiB on every device")
    if macro is not None:
        pre = stages.pretrain_settings(settings, macro, settings.seeds[0])
        print(f"pre-training   {pre.steps} steps of {pre.batch} pairs, {len(macro.train)} clips")
    print(f"seeds          {', '.join(map(str, settings.seeds))}")
