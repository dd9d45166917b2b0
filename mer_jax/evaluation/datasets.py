"""Names of datasets as label sets and protocols know them, and who was recorded twice.

A builder may append a configuration to its name (`casme2_cropped`, `synthetic_faces_micro`): the label sets are those
of the dataset. Where configurations hold different clips (SMIC's cameras, parts A and C of CAS(ME)^3, the families
of synthetic faces) they are datasets of their own here.
"""

from __future__ import annotations

DATASETS = (
    "casme", "casme2", "samm", "samm_long_videos", "smic_hs", "smic_vis", "smic_nir", "smic_e", "smic_e_vis",
    "casme_squared", "casme3", "casme3_c", "mmew", "fourdme", "dfme", "synthetic_faces", "clip_folder",
    "synthetic_faces_base", "synthetic_faces_twin", "synthetic_faces_appearance", "synthetic_faces_motion",
    "synthetic_faces_prior", "ck_plus", "oulu_casia", "mmi", "dfew", "afew", "ferv39k", "mafw", "mead",
)  # fmt: skip
FAMILIES = tuple(name for name in DATASETS if name.startswith("synthetic_faces_"))  # over one motion law
_ALIASES = {"smic": "smic_hs", "casme3_a": "casme3"}
_BUILDERS = {
    "smic_hs": "smic/hs", "smic_vis": "smic/vis", "smic_nir": "smic/nir", "smic_e": "smic/e",
    "smic_e_vis": "smic/e_vis", "casme3": "casme3/a", "casme3_c": "casme3/c",
    **{name: f"synthetic_faces/{name.removeprefix('synthetic_faces_')}" for name in FAMILIES},
}  # fmt: skip
_COHORTS = {
    "samm_long_videos": "samm",
    "smic_hs": "smic", "smic_vis": "smic", "smic_nir": "smic", "smic_e": "smic", "smic_e_vis": "smic",
    "casme3_c": "casme3_c",  # part C recorded other people than part A
    **{name: name.replace("_faces", "") for name in FAMILIES},
}  # fmt: skip


def canonical(dataset: str) -> str:
    """The dataset of a name as found in a clip table: the longest known name that it equals or extends by `_...`.

    Unknown names are returned as they are.
    """
    known = [name for name in (*DATASETS, *_ALIASES) if dataset == name or dataset.startswith(name + "_")]
    name = max(known, key=len, default=dataset)
    return _ALIASES.get(name, name)


def person_of(dataset: str, subject: str) -> str:
    """`cohort/subject` where only dataset and subject are known (a predictions file, a text log)."""
    name = canonical(dataset)
    return f"{_COHORTS.get(name, name)}/{subject}"


def builder_of(dataset: str) -> str:
    """The name under which a dataset is built: `dataset`, or `dataset/config` where configurations hold other clips."""
    return _BUILDERS.get(dataset, dataset)
