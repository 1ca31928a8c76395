"""How the steps go to Dask, and what becomes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import distributed
from distributed.utils import CancelledError
from tqdm import tqdm

from cxr.core import processes
from cxr.core.errors import InputError
from cxr.core.files import from_here
from cxr.study import cluster, executing, shared_files
from cxr.study.console import duration, say
from cxr.study.executing import Done, Job, StepFailed
from cxr.study.grid import Step
from cxr.study.holding import Held
from cxr.study.session import Session, State
from cxr.study.shared_files import Shared

_LOOK_SECONDS = 0.3
_SCHEDULER_GONE = (
    "the Dask scheduler does not answer any more: start one, and run the same command again. What is done is kept"
)


def run_all(
    session: Session,
    state: State,
    waiting: Sequence[Step],
    where: cluster.Cluster,
    shared: Shared | None,
    held: Held,
) -> None:
    """Hand the steps to Dask and follow them to their end; fills `state.runs` and `state.failures`.

    Args:
        waiting: the steps that are not done.
        shared: what workers elsewhere must see; None for the embedded cluster.
        held: the study, which this process holds.

    Raises:
        tracking.StoreGone, OSError: the store does not answer, or a disk is full.
        InputError: the scheduler does not answer, a new worker lacks something, or another process took the study.
        In all cases, and after Ctrl-C, no notebook is left running.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()  # they come in Dask's own thread
    where.client.subscribe_topic(state.parent, lambda event: events.put(event[1]))
    following = Following(session, state)
    waiting = list(waiting)
    attempt = f"{state.parent[:8]}.{time.time_ns():x}"  # Dask never uses the key of a task twice
    futures: dict[str, distributed.Future] = {}
    try:
        _submit(session, state, waiting, where, shared, attempt, futures)
        while waiting:
            held.check()
            ended = [step for step in waiting if futures[step.key].done()]
            told = [events.get() for _ in range(events.qsize())]
            over = {step.key for step in ended}
            for event in told:
                if event["key"] in over:
                    following.note(event)
            for step in ended:
                waiting.remove(step)
                following.end(step, futures[step.key])
            for event in told:  # the next step starts at once: its line comes after that of the one that ended
                if event["key"] not in over:
                    following.note(event)
            if where.lost and waiting:
                raise InputError(_SCHEDULER_GONE)
            following.show([step for step in waiting if step.key in following.began])
            if not ended:
                time.sleep(_LOOK_SECONDS)
    except BaseException:  # Ctrl-C, a full disk, a store that does not answer: leave nothing running
        with processes.undisturbed(lambda: say("still stopping: press Ctrl-C again to leave at once")):
            with contextlib.suppress(OSError):  # nobody reads the output any more, or its disk is full
                say("stopping the notebooks that run")
            where.stop(attempt, futures.values())
        raise
    finally:
        following.bar.close()
        where.client.unsubscribe_topic(state.parent)


def _submit(
    session: Session,
    state: State,
    waiting: Sequence[Step],
    where: cluster.Cluster,
    shared: Shared | None,
    attempt: str,
    futures: dict[str, distributed.Future],
) -> None:
    """Fill `futures`: one task per step, by the step's key; a task gets the results of those that it needs."""
    setup, environment = session.setup, session.environment
    setup = dataclasses.replace(setup, params_file=setup.params_file.absolute(), out=setup.out.absolute())
    if shared is not None:
        setup = dataclasses.replace(setup, overrides={**setup.overrides, **shared_files.absolute(session.study)})
        environment = {"CXR_NOTEBOOKS": str(setup.notebooks)}
    for rank, step in enumerate(waiting):
        job = Job(
            step=step,
            study=session.study.name,
            parent=state.parent,
            tracking_uri=session.tracking_uri,
            setup=setup,
            shared=shared,
            fingerprint="" if step.needs else session.fingerprint_of(step, {}),
            recorded=state.recorded.get(step.key, ""),
            fresh=session.fresh,
            environment=environment,
            manifest_hash=session.manifest_hash_of(step),
        )
        needs = {key: futures[key] if key in futures else Done(state.runs[key], again=True) for key in step.needs}
        futures[step.key] = where.client.submit(
            executing.execute,
            job,
            needs,
            key=f"{step.key}@{attempt}",
            pure=False,
            priority=-rank,  # one cell of the grid after the other
            resources={"GPU": 1} if where.hands_out_gpus and step.runs_network else None,
        )


class Following:
    """Notes how each step goes and ends, and prints it."""

    def __init__(self, session: Session, state: State) -> None:
        self.session, self.state = session, state
        self.began: dict[str, float] = {}  # keys of the steps that run, and when they began (time.monotonic)
        self.progress: dict[str, str] = {}  # the last progress line of each
        # On a terminal only; in a file, lines say what has ended.
        self.bar = tqdm(
            desc=session.study.name,
            total=len(session.steps),
            initial=len(state.runs),
            unit="notebook",
            file=sys.stdout,
            disable=None,
            leave=False,
            dynamic_ncols=True,
            smoothing=0,
        )

    def note(self, event: Mapping[str, Any]) -> None:
        """Note what a worker tells about a step, as `Job.tell` sends it."""
        key = event["key"]
        if "progress" in event:
            self.progress[key] = event["progress"]
            return
        where = "" if event["host"] == socket.gethostname() else f" on {event['host']}"
        name = key.replace("/", " ")
        if event.get("again"):
            say(f"  {name}: its worker was lost; it restarts{where or ' here'}")
        else:
            say(f"  {name}: started{where}")
        self.began[key] = time.monotonic()

    def end(self, step: Step, future: distributed.Future) -> None:
        """Note and print how a step ended. Raises the error of a task if it concerns all steps."""
        began = self.began.pop(step.key, None)
        self.progress.pop(step.key, None)
        took = duration(0.0 if began is None else time.monotonic() - began)
        said = self._end(step, future, took)
        ended = len(self.state.runs) + len(self.state.failures)
        say(f"[{ended}/{len(self.session.steps)}] {step.name}: {said}")
        self.bar.update()

    def _end(self, step: Step, future: distributed.Future, took: str) -> str:
        """Fill `state` with the end of a step, and return it in words."""
        state = self.state
        try:
            done: Done = future.result()
        except StepFailed as failure:
            died, reason = failure.key, failure.reason
        except distributed.KilledWorker as killed:
            died = str(killed.task).rpartition("@")[0]
            reason = "several workers were lost with this notebook: it may need more memory than they have"
        except CancelledError:
            raise InputError(_SCHEDULER_GONE) from None
        else:
            state.runs[step.key] = done.run_id
            return f"done already, run {done.run_id}" if done.again else f"done in {took}"
        if died != step.key:  # Dask passes on the failure of a step that this one needs
            state.failures[step.key] = f"not run: {died} failed"
            return state.failures[step.key]
        state.failures[step.key] = reason
        files = f"{from_here(self.session.setup.out / step.file)}.ipynb and .log"
        return f"FAILED after {took}: {reason} (see {files})"

    def show(self, running: Sequence[Step]) -> None:
        """Show the last progress lines of the running notebooks behind the bar."""
        said = [f"{step.name} {self.progress.get(step.key, '')}".strip() for step in running]
        self.bar.set_postfix_str(" | ".join(said))
