"""What a study knows before its first notebook starts (`Session`), and what it learns after that (`State`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cxr import tracking
from cxr.core import processes
from cxr.core.execution import ENVIRONMENT
from cxr.core.params import StudyParams
from cxr.study import externals
from cxr.study.grid import Setup, Step

if TYPE_CHECKING:
    import pandas as pd

    from cxr.report.declared.plan_file import Plan


@dataclass(frozen=True)
class Session:
    """What a study knows before its first notebook starts.

    Attributes:
        study: the validated parameters.
        setup: what the notebooks have in common.
        steps: all steps, as `grid.plan` gives them.
        manifest: the images, from `cxr.data.manifest.build_manifest`; with `vary_split`, with the splits of the
            first seed.
        tracking_uri: of the MLflow store.
        environment: further environment variables of the notebooks on this machine.
        fresh: run all steps, whether or not they are done.
        other_splits: with `vary_split`, the manifest of every other seed.
        plan: the frozen plan that the study keeps to; None without one.
        externals: the manifest of each external test set, by its name.
    """

    study: StudyParams
    setup: Setup
    steps: Sequence[Step]
    manifest: pd.DataFrame
    tracking_uri: str
    environment: Mapping[str, str]
    fresh: bool = False
    other_splits: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    plan: Plan | None = None
    externals: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def manifest_hash(self) -> str:
        """The hash of `manifest`. With the settings it stands for the splits of other seeds too."""
        from cxr.data import manifest as data_manifest

        return data_manifest.manifest_hash(self.manifest)

    @cached_property
    def _other_hashes(self) -> dict[int, str]:
        from cxr.data import manifest as data_manifest

        return {seed: data_manifest.manifest_hash(manifest) for seed, manifest in self.other_splits.items()}

    @cached_property
    def _external_hashes(self) -> dict[str, str]:
        from cxr.data import manifest as data_manifest

        return {name: data_manifest.manifest_hash(manifest) for name, manifest in self.externals.items()}

    def manifest_hash_of(self, step: Step) -> str:
        """The hash of the images and splits that a step is trained on, or of the external set that it reads."""
        if step.stage == externals.STAGE:
            return self._external_hashes[step.params["external"]]
        return self._other_hashes.get(step.parameters.get("seed"), self.manifest_hash)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the study's own run: its settings, its images and its plan."""
        left_out = {"name", "data", "pseudonymise", "jobs", "plan", "external"}
        values = self.study.model_dump(mode="json", exclude=left_out)
        parts = [values, self.manifest_hash, *([self.plan.sha256] if self.plan else [])]
        parts += [self._external_hashes] if self.externals else []
        return tracking.sha256(json.dumps(parts, sort_keys=True))

    def fingerprint_of(self, step: Step, runs: Mapping[str, str]) -> str:
        """The fingerprint of the run of a step. `runs`: the runs of the steps that it needs, by key."""
        return self.setup.fingerprint(step, runs, self.manifest_hash_of(step))


@dataclass
class State:
    """What a study learns while it runs.

    Attributes:
        recorded: keys of steps to the run ids with which this study last ended; empty for a new study.
        runs: keys of done steps to run ids.
        failures: keys of steps that failed or could not run, to the reason.
        parent: the id of the study's own run; "" while it has none.
    """

    recorded: Mapping[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    parent: str = ""


def default_out(study: StudyParams) -> Path:
    """The folder for executed notebooks, logs and the report if none is given."""
    return tracking.project() / "mlruns" / "studies" / study.name


def environment(notebooks: Path, at_once: int) -> dict[str, str]:
    """Further environment variables of the notebooks, if `at_once` of them share this machine."""
    values = {**ENVIRONMENT, **share_of_cores(at_once)}
    if notebooks != (tracking.project() / "notebooks").resolve():
        values["CXR_NOTEBOOKS"] = str(notebooks)
    return values


def share_of_cores(at_once: int) -> dict[str, str]:
    """Variables that give each of several notebooks its share of the cores; a number set by the user stays."""
    if at_once == 1:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // at_once))
    return {name: os.environ.get(name, share) for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")}


def runner() -> str:
    """The identity of the process that runs a study: this one."""
    return processes.identity(os.getpid())
