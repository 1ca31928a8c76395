"""What the results of a stage depend on, as one hash; and what else a run notes of its origin."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.core import architectures, git
from cxr.core.errors import InputError
from cxr.core.execution import STAGES
from cxr.core.params import Params
from cxr.tracking.connection import notebooks_folder, project
from cxr.tracking.source import NOT_IN_CODE, SHOWING, code_version, contents, sha256

# What a stage computes does not depend on these. `data` is a path: the manifest's hash, an input of the train
# run, stands in for it, and for pseudonyms. Runs that are read are inputs, however the notebook came by their ids.
_NOT_IN_FINGERPRINT = frozenset(
    {"name", "data", "pseudonymise", "jobs", "output", "train_run_id", "attribute_run_id", "score_run_ids", "gate"}
    | {"external_run_ids"}
    | {"model_a", "model_b", "like_a", "like_b", "module"}
)
OF_PHANTOM = frozenset({"phantom_images", "phantom_seed", "lesion_contrast", "shortcut"})
"""Parameters that only the phantom reads; with other images they change nothing."""


def fingerprint(stage: str, settings: Params, inputs: Mapping[str, str], *, notebooks: Path | None = None) -> str:
    """SHA-256, in hexadecimal, of all that the results of a stage depend on.

    That is the settings that matter to it (not the names of things, paths or run ids), its inputs, and
    `code_version` of its notebook; where what is shown is the product (`4_compare`), how it looks counts. Where
    `weights` or `plan` stands for files, their contents count, not their path; where `architecture` is a function
    of the user's, so does the file that it is in. Versions of packages are not part of it: they are logged with
    each run.
    """
    values = settings.model_dump(mode="json")
    left_out = _NOT_IN_FINGERPRINT if values.get("data") == "phantom" else _NOT_IN_FINGERPRINT | OF_PHANTOM
    values = {key: value for key, value in values.items() if key not in left_out | settings.filters}
    if "weights" in values:
        values["weights"] = _weights(values["weights"], values["architecture"])
    if "plan" in values:
        values["plan"] = _plan(values["plan"])
    if architectures.is_entry_point(str(values.get("architecture"))):
        values["architecture_source"] = architectures.source_hash(values["architecture"])
    notebook = (notebooks or notebooks_folder()) / f"{STAGES[stage]}.ipynb"
    code = code_version(notebook, without=NOT_IN_CODE - SHOWING if stage == "compare" else NOT_IN_CODE)
    parts = {"stage": stage, "settings": values, "inputs": dict(inputs), "code": code}
    return sha256(json.dumps(parts, sort_keys=True, allow_nan=False))


@functools.cache
def environment() -> dict[str, Any]:
    """Python, platform, cores, threads of a network's operations, and the version of every installed package.

    No package is imported. Other numbers of threads add in another order: results differ as those of another seed.
    """
    metadata = [distribution.metadata for distribution in importlib.metadata.distributions()]
    installed = {package["Name"]: package["Version"] for package in metadata}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS") or str(os.cpu_count()),
        "packages": {name: installed[name] for name in sorted(installed, key=str.lower)},
    }


def git_tags() -> dict[str, str]:
    """The project's commit and whether tracked files differ from it; empty outside of a git repository."""
    found = git.commit(project())
    if found is None:
        return {}
    commit, changed = found
    return {"mlflow.source.git.commit": commit, "cxr.git.dirty": str(changed).lower()}


def _plan(path: str) -> str:
    """`plan` as the fingerprint has it: the contents of the file, not its path. Raises InputError."""
    try:
        return contents(Path(path)) if path else ""
    except OSError as error:
        raise InputError(f"plan: cannot read {path} ({error.strerror}): correct the path") from None


def _weights(weights: str, architecture: str) -> str:
    """`weights` as the fingerprint has it: with the contents of the files that it stands for.

    Those in the package are part of `code_version`, and Keras checks those of `imagenet`.
    """
    if weights in ("imagenet", "none"):
        return weights
    if weights == "source":
        from cxr.data.cache import default_cache

        own = default_cache() / "weights" / f"{architecture}.npz"  # as in models.find_weights
        return f"source {contents(own)}" if own.is_file() else "source"
    path = Path(weights).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.*")) if path.is_dir() else []
    return " ".join(["files", *(contents(file) for file in files if file.suffix in (".h5", ".keras", ".npz"))])
