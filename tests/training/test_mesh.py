"""Together: nobody runs what another process still compiles."""

import json

import jax
import numpy as np

from mer_jax.training import mesh


def test_a_program_is_compiled_then_waited_for_then_run(monkeypatch):
    order = []

    class Compiled:
        def __init__(self, run):
            self._run = run

        def __call__(self, *arguments):
            order.append("run")
            return self._run(*arguments)

    class Lowered:
        def __init__(self, lowered):
            self._lowered = lowered

        def compile(self):
            order.append("compile")
            return Compiled(self._lowered.compile())

    class Function:
        def lower(self, *arguments):
            return Lowered(jax.jit(lambda x, n: x * n).lower(*arguments))

    monkeypatch.setattr(mesh, "barrier", order.append)
    together = mesh.Together(Function())
    assert float(together(np.float32(3), np.int32(2))) == 6
    assert float(together(np.float32(4), np.int32(3))) == 12
    assert order == ["compile", "compiled", "run", "run"]


def test_a_program_without_collectives_is_run_then_waited_for_once_for_each_static_argument(monkeypatch):
    order = []

    def function(x, n, steps):
        order.append("traced")
        return x * n + steps

    monkeypatch.setattr(mesh, "barrier", order.append)
    together = mesh.Together(jax.jit(function, static_argnums=2), static=(2,), collectives=False)
    assert float(together(np.float32(3), np.int32(2), 1)) == 7
    assert float(together(np.float32(4), np.int32(3), 1)) == 13
    assert order == ["traced", "compiled"]
    assert float(together(np.float32(4), np.int32(3), 5)) == 17
    assert order == ["traced", "compiled"] * 2


def test_static_arguments_choose_among_compiled_programs(monkeypatch):
    monkeypatch.setattr(mesh, "barrier", lambda _: None)
    together = mesh.Together(jax.jit(lambda x, steps: x + steps, static_argnums=1), static=(1,))
    assert [float(together(np.float32(1), steps)) for steps in (1, 5, 1)] == [2, 6, 2]


def test_numbers_are_agreed_on_once_all_have_arrived(monkeypatch):
    order = []
    monkeypatch.setattr(mesh.jax, "process_count", lambda: 2)
    monkeypatch.setattr(mesh, "barrier", order.append)
    monkeypatch.setattr(mesh.multihost_utils, "broadcast_one_to_all", lambda x: order.append("sent") or x)
    assert mesh.agree(3.0) == 3.0
    assert order == ["agree", "sent"]


def test_facts_are_those_of_the_first_process(monkeypatch):
    first = json.dumps({"choices": {"fold_mode": "vmap", "folds_per_device": 3}}).encode()
    sent = []

    def broadcast(values):  # as the first process would answer
        sent.append(np.array(values))
        return np.int32(len(first)) if values.ndim == 0 else np.frombuffer(first, np.uint8)

    monkeypatch.setattr(mesh.jax, "process_count", lambda: 2)
    monkeypatch.setattr(mesh.jax, "process_index", lambda: 1)
    monkeypatch.setattr(mesh, "barrier", lambda _: None)
    monkeypatch.setattr(mesh.multihost_utils, "broadcast_one_to_all", broadcast)
    assert mesh.agree_on_facts({"an": "older file"}) == json.loads(first)
    assert [values.shape for values in sent] == [(), (len(first),)]  # of the same shape as what process 0 sends
    monkeypatch.setattr(mesh.jax, "process_index", lambda: 0)
    mesh.agree_on_facts(json.loads(first))
    assert sent[3].tobytes() == first


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(mesh.multihost, "get_barrier_sync_fn", lambda: 1 / 0)
    mesh.barrier("look")
