"""The label sets of the field, as data: one module a family of datasets."""

from __future__ import annotations

from mer_jax.evaluation.label_sets import casme, composite, macro, micro

SETS = (*micro.SETS, *casme.SETS, *composite.SETS, *macro.SETS)
ACTION_UNIT_SETS = composite.ACTION_UNIT_SETS
