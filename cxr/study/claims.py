"""Who runs what: the one module that decides who may run a study, who is dead, and what becomes of what it left.

It only decides: data in, decision out. It asks no store, no clock and no system. `cxr.study.holding` brings it
what the store and this machine say, and does what it answers; a test brings it every order of events.

A *claim* says that a process runs a study, or wants to. Claims lie where all that run this study look: in the tags
of the study's own runs. To get a study, a process writes its claim, looks again, and withdraws if there is another
claim that may live (`taking`). So of several that start at once, at most one goes on: of two that both wrote,
the one that looked last saw the other. Nothing here compares the clocks of two machines: a claim is dead if its
process is known to be dead, or if it did not change for `DEAD_SECONDS` by the clock of the one who watches it,
which nobody can set. Who was taken for dead and wakes up sees a claim with a higher term, and stops (`holds`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence, Set
from dataclasses import dataclass

BEAT_SECONDS = 30.0  # between two signs of life
DEAD_SECONDS = 300.0  # without a sign of life; a runner asks its store again after 120 s at most
LOOK_SECONDS = 5.0  # between two looks at a claim that may be dead


@dataclass(frozen=True)
class Claim:
    """That a process runs a study, or wants to.

    Attributes:
        token: of one start of the study; no two have the same.
        term: higher than that of every claim that was taken for dead before.
        runner: `cxr.core.processes.identity` of the process.
        beat: a number that grows as long as the process lives.
    """

    token: str
    term: int
    runner: str
    beat: int = 0

    @property
    def text(self) -> str:
        """The claim without its token, as it is written."""
        return json.dumps({"term": self.term, "runner": self.runner, "beat": self.beat})

    @classmethod
    def read(cls, token: str, text: str) -> Claim:
        """The claim of a `text`; one that nobody can have written counts as an old one."""
        try:
            return cls(token, **json.loads(text))
        except (ValueError, TypeError):
            return cls(token, term=0, runner="", beat=0)

    @property
    def who(self) -> str:
        """The process in words."""
        host, pid, _ = (["", ""] + self.runner.rsplit(":", 2))[-3:]
        return f"process {pid} on {host}"


class Busy(Exception):
    """Another process runs the study. Its argument: the claim."""

    @property
    def claim(self) -> Claim:
        return self.args[0]


class Watch:
    """Tells living claims from dead ones. Show it all claims again and again.

    Args:
        lives: says of a runner whether it lives: True, False, or None where that cannot be seen from here.
    """

    def __init__(self, lives: Callable[[str], bool | None]) -> None:
        self._lives = lives
        self._seen: dict[str, tuple[int, float]] = {}  # by the token: the beat, and when it was new

    def judge(self, claims: Iterable[Claim], now: float) -> dict[str, bool | None]:
        """By token: True for a claim that lives, False for a dead one, None if only time will tell.

        `now`: seconds, of a clock that nobody can set (`time.monotonic`).
        """
        return {claim.token: self._judged(claim, now) for claim in claims}

    def _judged(self, claim: Claim, now: float) -> bool | None:
        if (known := self._lives(claim.runner)) is not None:
            return known
        beat, since = self._seen.setdefault(claim.token, (claim.beat, now))
        if beat != claim.beat:
            self._seen[claim.token] = (claim.beat, now)
            return True
        return False if now - since >= DEAD_SECONDS else None


@dataclass(frozen=True)
class Look:
    """Answer with all claims on the study, and the time (`Watch.judge`)."""


@dataclass(frozen=True)
class Write:
    """Write this claim, in place of one with the same token."""

    claim: Claim


@dataclass(frozen=True)
class Withdraw:
    """Remove the claims with these tokens."""

    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Wait so many seconds. `until`: the claims that are watched; none after two wanted the study at once."""

    seconds: float
    until: tuple[Claim, ...] = ()


Action = Look | Write | Withdraw | Wait
Seen = tuple[Sequence[Claim], float] | None  # the answer to `Look`; None to everything else


def looking(watch: Watch) -> Generator[Action, Seen, list[Claim]]:
    """Look until no claim may live any more, and return all claims, which are dead. Raises Busy."""
    while True:
        claims, now = yield Look()
        judged = watch.judge(claims, now)
        for claim in claims:
            if judged[claim.token]:
                raise Busy(claim)
        unknown = tuple(claim for claim in claims if judged[claim.token] is None)
        if not unknown:
            return list(claims)
        yield Wait(LOOK_SECONDS, unknown)


def taking(token: str, runner: str, watch: Watch, pause: Callable[[], float]) -> Generator[Action, Seen, Claim]:
    """Take a study: the actions to do, one after the other. Returns the claim that holds it.

    Args:
        token: new for each start.
        runner: the process that wants to run the study.
        pause: seconds to wait if two want it at once; differs from call to call.

    Raises: Busy: another process runs the study.
    """
    while True:
        dead = yield from looking(watch)
        own = Claim(token, 1 + max((claim.term for claim in dead), default=0), runner)
        yield Write(own)
        claims, now = yield Look()
        others = [claim for claim in claims if claim.token != token]
        judged = watch.judge(others, now)
        if own in claims and all(judged[claim.token] is False for claim in others):
            if others:
                yield Withdraw(tuple(claim.token for claim in others))
            return own
        yield Withdraw((token,))
        yield Wait(pause())


def holds(own: Claim, claims: Sequence[Claim]) -> bool:
    """Whether the process of a claim that was taken may go on, as the claims are now.

    It may not if it was taken for dead: then its claim is gone, or another one has a higher term.
    """
    return any(claim.token == own.token for claim in claims) and all(claim.term <= own.term for claim in claims)


@dataclass(frozen=True)
class Started:
    """A run that the store says is running.

    Attributes:
        run_id: its id.
        complete: whether its notebook has closed it.
        here: whether its processes are on this machine, where they can be stopped.
    """

    run_id: str
    complete: bool = False
    here: bool = True


def left_over(children: Iterable[Started]) -> list[str]:
    """Ids of the runs to end, of those below a study that this process has just taken: nobody else runs them."""
    return [child.run_id for child in children if not child.complete]


def resumed(same_step: Sequence[Started]) -> tuple[str, list[str]]:
    """What becomes of the runs of a step whose worker was lost, as another worker begins it; newest first.

    Only a run whose processes were on this machine is resumed, since they are stopped first. On another machine
    they may still write, and two must not write to one run.

    Returns: the id of the run to resume ("": make a new one), and the ids of the others, which end.
    """
    found = next((run.run_id for run in same_step if run.here), "")
    return found, [run.run_id for run in same_step if run.run_id != found]


def refused(key: str, stopped: Set[str]) -> bool:
    """Whether a worker must not start a task any more. `stopped`: keys, or attempts of studies, that were stopped.

    The key of a task ends with `@` and the attempt: one start of a study.
    """
    return key in stopped or key.rpartition("@")[2] in stopped
