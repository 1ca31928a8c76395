"""What the runner and its workers tell each other about one step: the job, how it ended, and how it goes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed import get_worker

from cxr.study.grid import Setup, Step
from cxr.study.shared_files import Shared


@dataclass(frozen=True)
class Job:
    """A step, and all that a worker has to know about its study.

    Attributes:
        step: which notebook, for which cell of the grid.
        study: the MLflow experiment.
        parent: the id of the study's own run; also the topic of the events that workers send (`tell`).
        tracking_uri: of the store.
        setup: the study's files, with absolute paths unless the worker is a thread of the runner.
        shared: what the worker must see; None if it is a thread of the runner.
        fingerprint: that the step will have; "" if it needs runs that do not exist yet.
        recorded: the run of this step when the study last ended; "" for none.
        fresh: whether only runs of this study count as done.
        environment: further environment variables of the notebook.
        manifest_hash: of the study's images.
    """

    step: Step
    study: str
    parent: str
    tracking_uri: str
    setup: Setup
    shared: Shared | None
    fingerprint: str
    recorded: str
    fresh: bool
    environment: Mapping[str, str]
    manifest_hash: str

    def tell(self, **what: Any) -> None:
        """Send the runner an event about this step, from a worker.

        Args: `progress`, a line; or `began=True`, with `again=True` if another worker had begun.
        """
        get_worker().log_event(self.parent, {"key": self.step.key, "host": socket.gethostname(), **what})


@dataclass(frozen=True)
class Done:
    """A step that has its run.

    Attributes:
        again: whether the run existed already.
        changed: whether code or settings changed between the start of the study and that of the notebook.
    """

    run_id: str
    again: bool = False
    changed: bool = False


class StepFailed(Exception):
    """A step has no run. Its arguments: the step's key, and the reason in one line."""

    @property
    def key(self) -> str:
        return self.args[0]

    @property
    def reason(self) -> str:
        return self.args[1]
