"""Holding a study: this process takes it, gives signs of life, and lets it go. `claims` decides, this module does.

A claim is a tag of one of the study's own runs, which all that run the study look at.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from cxr import tracking
from cxr.core import processes
from cxr.core.errors import InputError
from cxr.study import claims, study_run
from cxr.study.claims import Claim
from cxr.study.console import duration, say
from cxr.study.session import Session, State, runner

_TAG = "cxr.claim."  # and the token: a claim


def refuse_if_running(session: Session) -> claims.Watch:
    """Raise InputError while another process runs this study. Changes nothing.

    Waits for `claims.DEAD_SECONDS` if only time can tell, because that process is on another machine.

    Returns: what was seen, for `held`, which need not wait again.
    """
    watch = claims.Watch(lambda who: bool(processes.lives(who)) if processes.is_here(who) else None)
    _drive(claims.looking(watch), _Board(session), session)
    return watch


@contextlib.contextmanager
def held(session: Session, state: State, watch: claims.Watch) -> Iterator[Held]:
    """Within this context this process, and no other, runs the study; `state.parent` is the study's own run.

    What a dead runner left is stopped and ended first. If the context ends with an error, the runs that are not
    done end too. SIGTERM acts like Ctrl-C.

    Args: watch: from `refuse_if_running`.
    Raises: InputError: another process runs the study.
    """
    with processes.terminable():
        board = _Board(session)
        own = _drive(
            claims.taking(secrets.token_hex(4), runner(), watch, lambda: random.uniform(1, 5)), board, session
        )
        state.parent = board.run_id
        holding = Held(board, own)
        try:
            _end_left_over(session, state.parent)
            study_run.reopen(session, state.parent)
            holding.beat()
            holding.begin()
            yield holding
        except BaseException as error:
            _give_up(session, state, holding, error)
            raise
        finally:
            holding.end()


class Held:
    """The claim of this process while it runs a study. A thread renews it, whatever the study waits for."""

    def __init__(self, board: _Board, claim: Claim) -> None:
        self._board, self._claim = board, claim
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="signs of life", daemon=True)
        self._trouble: Exception | None = None
        self.lost = False

    def begin(self) -> None:
        """Give signs of life from now on."""
        self._thread.start()

    def check(self) -> None:
        """Raise InputError if another process has taken the study, and the error if the store failed."""
        if self._trouble is not None:
            raise self._trouble

    def beat(self) -> None:
        """Give one sign of life. Raises InputError as `check` does."""
        if not claims.holds(self._claim, self._board.claims()):
            self.lost = True
            raise InputError(
                "another process runs this study now: this one gave no sign of life for "
                f"{duration(claims.DEAD_SECONDS)}, and was taken for dead. What is done is kept; let the other run"
            )
        self._claim = replace(self._claim, beat=self._claim.beat + 1)
        self._board.write(self._claim)
        study_run.give_sign_of_life(self._board.run_id)

    def end(self) -> None:
        """Give no more signs of life, and let the study go. A store that does not answer is left as it is."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if not (self.lost or isinstance(self._trouble, tracking.StoreGone)):
            with contextlib.suppress(Exception):  # a claim that stays is found to be dead
                self._board.withdraw((self._claim.token,))

    def _beat_on(self) -> None:
        while not self._ended.wait(claims.BEAT_SECONDS):
            try:
                self.beat()
            except Exception as error:
                self._trouble = error
                return


class _Board:
    """The claims on a study, in the store. `run_id`: the run with the claim of this process; "" without one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made = False
        self.run_id = ""

    def claims(self) -> list[Claim]:
        return [
            Claim.read(key.removeprefix(_TAG), text)
            for run in study_run.find(self._session)
            for key, text in run.tags.items()
            if key.startswith(_TAG)
        ]

    def write(self, claim: Claim) -> None:
        tag = {f"{_TAG}{claim.token}": claim.text}
        if not self.run_id:
            self.run_id, self._made = study_run.open_parent(self._session, tag)
        else:
            tracking.set_tags(self.run_id, tag)

    def withdraw(self, tokens: tuple[str, ...]) -> None:
        gone = {f"{_TAG}{token}" for token in tokens}
        for run in study_run.find(self._session):
            for key in gone & run.tags.keys():
                tracking.remove_tag(run.run_id, key)

    def give_up(self) -> None:
        """Remove the run that was made for a claim that was withdrawn."""
        if self._made:
            tracking.delete_run(self.run_id)
        self.run_id, self._made = "", False


def _drive(actions: Generator[claims.Action, claims.Seen, Any], board: _Board, session: Session) -> Any:
    """Do what `claims` says, one action after the other, and return its result. Raises InputError for Busy."""
    answer: claims.Seen = None
    said = False
    try:
        while True:
            action = actions.send(answer)
            answer = None
            match action:
                case claims.Look():
                    answer = (board.claims(), time.monotonic())
                case claims.Write(claim):
                    board.write(claim)
                case claims.Withdraw(tokens):
                    board.withdraw(tokens)
                case claims.Wait(seconds, until):
                    if until and not said:
                        said = True
                        say(_waiting(session, until[0]))
                    if not until:
                        board.give_up()
                    time.sleep(seconds)
    except StopIteration as end:
        return end.value
    except claims.Busy as busy:
        board.give_up()
        raise InputError(
            f"the study '{session.study.name}' is being run already, by {busy.claim.who}: wait for it, stop it, "
            "or choose another `name`"
        ) from None


def _waiting(session: Session, claim: Claim) -> str:
    return (
        f"the study '{session.study.name}' was begun by {claim.who}, and has not ended: waiting for a sign of "
        f"life. Without one for {duration(claims.DEAD_SECONDS)}, this command goes on with the study"
    )


def _end_left_over(session: Session, parent: str) -> None:
    """Stop the notebooks that a dead runner of this study left on this machine, and end their runs."""
    studies = study_run.find(session)
    children = [
        child
        for study in studies
        for child in tracking.find(experiment=session.study.name, parent=study.run_id, complete=False)
        if child.status == "RUNNING"
    ]
    stopped = processes.stop_orphans({child.run_id: child.tags.get("cxr.process", "") for child in children})
    if stopped:
        say(f"  an earlier run of this study was killed: stopped {stopped} processes that were still running")
    # read again: some may have ended just now
    started = [claims.Started(child.run_id, tracking.stored(child.run_id).complete) for child in children]
    for run_id in claims.left_over(started):
        tracking.end_run(run_id, "KILLED")
    tracking.end_abandoned(session.study.name)
    for study in studies:
        if study.run_id != parent and study.status == "RUNNING":
            tracking.end_run(study.run_id, "KILLED")


def _give_up(session: Session, state: State, holding: Held, error: BaseException) -> None:
    """End the runs of a study that stops half-way, as far as they are this process' own and the store answers."""
    if holding.lost or isinstance(error, tracking.StoreGone):
        return
    status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    with processes.undisturbed(lambda: say("stopping: press Ctrl-C again to leave at once")):
        try:
            study_run.end_all(session.study.name, state, status)
        except Exception:
            if not tracking.disk_full(error):  # a full disk: the next start cleans up
                raise
