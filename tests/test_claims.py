"""Who runs what: every order of events, on a model of the store, of two machines and of their clocks."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cxr.study import claims
from cxr.study.claims import Claim, Look, Started, Wait, Watch, Withdraw, Write

PLACES = ("left", "right")


class Runner:
    """One start of a study on the model. It does one action at a time: others come in between."""

    def __init__(self, world, number, place):
        self.world, self.name, self.place = world, f"{place}:{number}:0", place
        self.alive, self.asleep, self.refused, self.own = True, False, False, None
        self.slept = 0.0
        self.next_beat = 0.0
        self.wake_at = 0.0
        watch = Watch(lambda who: self.world.alive(who) if who.startswith(place) else None)
        self.actions = claims.taking(f"t{number}", self.name, watch, lambda: 1.0 + number)
        self.action = next(self.actions)
        self.looked = None  # at its last look for a sign of life, which comes in two steps too

    def step(self):
        """The next action on the store, whole: a request to a database."""
        if self.refused:
            return
        if self.own is not None:
            self._beat()
            return
        answer, world = None, self.world
        match self.action:
            case Look():
                answer = (list(world.board.values()), world.clock[self.place])
            case Write(claim):
                world.board[claim.token] = claim
            case Withdraw(tokens):
                for token in tokens:
                    world.board.pop(token, None)
            case Wait():
                if world.clock[self.place] < self.wake_at:
                    return
        try:
            self.action = self.actions.send(answer)
            if isinstance(self.action, Wait):
                self.wake_at = world.clock[self.place] + self.action.seconds
        except claims.Busy:
            self.refused = True
        except StopIteration as end:
            self.own = end.value
            self.next_beat = world.clock[self.place]
            world.took(self)

    def _beat(self):
        if self.world.clock[self.place] < self.next_beat and self.looked is None:
            return
        if self.looked is None:
            self.looked = list(self.world.board.values())
            return
        if claims.holds(self.own, self.looked):
            self.own = Claim(self.own.token, self.own.term, self.name, self.own.beat + 1)
            self.world.board[self.own.token] = self.own
            self.next_beat = self.world.clock[self.place] + claims.BEAT_SECONDS
            self.looked = None
        else:
            self.own, self.refused = None, True

    @property
    def runs(self):
        """Whether it starts notebooks."""
        return self.alive and not self.asleep and not self.refused and self.own is not None


class World(RuleBasedStateMachine):
    """Two machines, one store. Whoever runs a study has notebooks, each a run that the store says is running."""

    def __init__(self):
        super().__init__()
        self.board = {}
        self.clock = dict.fromkeys(PLACES, 0.0)  # that nobody can set
        self.date = dict.fromkeys(PLACES, 1e9)  # that anybody can
        self.runners = []
        self.notebooks = {}  # run id to the runner that started it; all of them are RUNNING
        self.writers = {}  # run id to the machines on which a notebook writes to it
        self.made = 0
        self.robbed = []  # awake runners that lost the study

    def alive(self, name):
        return next(runner.alive for runner in self.runners if runner.name == name)

    def took(self, runner):
        """What `holding` does with the runs of the one before."""
        children = [Started(run_id) for run_id in self.notebooks]
        for run_id in claims.left_over(children):
            owner = self.notebooks.pop(run_id)
            if owner.runs and owner is not runner:
                self.robbed.append(owner)

    @rule(place=st.sampled_from(PLACES))
    @precondition(lambda self: len(self.runners) < 8)
    def start(self, place):
        self.runners.append(Runner(self, len(self.runners), place))

    @rule(data=st.data())
    @precondition(lambda self: any(r.alive and not r.asleep and not r.refused for r in self.runners))
    def step(self, data):
        able = [r for r in self.runners if r.alive and not r.asleep and not r.refused]
        data.draw(st.sampled_from(able)).step()

    @rule(data=st.data())
    @precondition(lambda self: any(r.runs for r in self.runners))
    def start_notebook(self, data):
        owner = data.draw(st.sampled_from([r for r in self.runners if r.runs]))
        self._new_run(owner, data.draw(st.sampled_from(PLACES)))

    def _new_run(self, owner, place):
        self.made += 1
        self.notebooks[f"run{self.made}"] = owner
        self.writers[f"run{self.made}"] = [place]

    @rule(data=st.data(), place=st.sampled_from(PLACES), cut_off=st.booleans())
    @precondition(lambda self: any(owner.runs for owner in self.notebooks.values()))
    def lose_worker(self, data, place, cut_off):
        """Another worker begins the step. The processes of the lost one are dead, or only cut off."""
        run = data.draw(st.sampled_from([run for run, owner in self.notebooks.items() if owner.runs]))
        [old] = self.writers[run]
        writers = [old] if cut_off and old != place else []  # those on its own machine are stopped first
        again, ended = claims.resumed([Started(run, here=old == place)])
        if again:
            self.writers[again] = [*writers, place]
        else:
            self._new_run(self.notebooks[run], place)
        for run_id in ended:
            del self.notebooks[run_id]

    @rule(data=st.data())
    @precondition(lambda self: any(r.alive for r in self.runners))
    def kill(self, data):
        data.draw(st.sampled_from([r for r in self.runners if r.alive])).alive = False

    @rule(data=st.data())
    @precondition(lambda self: any(r.alive and not r.asleep for r in self.runners))
    def fall_asleep(self, data):
        data.draw(st.sampled_from([r for r in self.runners if r.alive and not r.asleep])).asleep = True

    @rule(data=st.data())
    @precondition(lambda self: any(r.asleep for r in self.runners))
    def wake(self, data):
        runner = data.draw(st.sampled_from([r for r in self.runners if r.asleep]))
        runner.asleep = False

    @rule(seconds=st.sampled_from([1.0, 10.0, 29.0, 400.0]))
    def time_passes(self, seconds):
        """All clocks go on. Whoever is awake does what it has to in that time: one beat in 30 s at least."""
        while seconds > 0:
            part = min(seconds, claims.LOOK_SECONDS)
            seconds -= part
            for place in PLACES:
                self.clock[place] += part
                self.date[place] += part
            for runner in self.runners:
                if runner.alive and not runner.asleep and not runner.refused:
                    runner.step()
                    runner.step()
                elif runner.asleep:
                    runner.slept += part

    @rule(place=st.sampled_from(PLACES), seconds=st.sampled_from([-1e6, -5.0, 5.0, 1e6]))
    def clock_is_set(self, place, seconds):
        self.date[place] += seconds

    @rule(data=st.data())
    @precondition(lambda self: any(r.runs for r in self.runners))
    def end(self, data):
        runner = data.draw(st.sampled_from([r for r in self.runners if r.runs]))
        self.notebooks = {key: owner for key, owner in self.notebooks.items() if owner is not runner}
        self.board.pop(runner.own.token, None)
        runner.refused = True

    @invariant()
    def two_run_it_only_if_one_slept_until_it_was_taken_for_dead(self):
        running = [runner for runner in self.runners if runner.runs]
        assert sum(runner.slept < claims.DEAD_SECONDS / 2 for runner in running) <= 1, running

    @invariant()
    def no_two_notebooks_write_to_one_run(self):
        assert all(len(self.writers[run]) == 1 for run in self.notebooks)

    @invariant()
    def nobody_who_is_awake_loses_notebooks(self):
        assert not [runner for runner in self.robbed if runner.slept < claims.DEAD_SECONDS / 2]

    def teardown(self):
        """Whatever happened: when all others are dead, one more start gets the study."""
        for runner in self.runners:
            runner.alive = False
        last = Runner(self, len(self.runners), "left")
        self.runners.append(last)
        for _ in range(300):
            self.clock["left"] += claims.LOOK_SECONDS
            last.step()
        assert last.runs
        assert not self.notebooks


World.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, suppress_health_check=list(HealthCheck)
)
test_any_order_of_events = pytest.mark.slow(World.TestCase)


# -- single decisions


def test_two_that_start_at_once_never_both_go_on():
    """All 924 orders of six actions each of two processes on two machines."""
    from itertools import combinations

    for mine in combinations(range(12), 6):
        world = World()
        for place in PLACES:
            world.start(place)
        for moment in range(12):
            world.runners[moment in mine].step()
        assert sum(runner.runs for runner in world.runners) <= 1


def test_a_claim_from_elsewhere_lives_as_long_as_it_changes_whatever_the_clocks_say():
    watch = Watch(lambda who: None)
    claim = Claim("a", 1, "elsewhere:1:2")
    assert watch.judge([claim], 0.0) == {"a": None}
    assert watch.judge([claim], claims.DEAD_SECONDS - 1) == {"a": None}
    later = Claim("a", 1, "elsewhere:1:2", beat=1)
    assert watch.judge([later], claims.DEAD_SECONDS) == {"a": True}
    assert watch.judge([later], 2 * claims.DEAD_SECONDS - 1) == {"a": None}
    assert watch.judge([later], 2 * claims.DEAD_SECONDS) == {"a": False}


@pytest.mark.parametrize("known", [True, False])
def test_a_process_of_this_machine_is_looked_at(known):
    assert Watch(lambda who: known).judge([Claim("a", 1, "here:1:2")], 0.0) == {"a": known}


def test_who_was_taken_for_dead_stops():
    own = Claim("a", 3, "x:1:2", beat=7)
    assert claims.holds(own, [own]) and claims.holds(own, [own, Claim("b", 3, "y:1:2")])  # b will withdraw
    assert not claims.holds(own, [own, Claim("b", 4, "y:1:2")])
    assert not claims.holds(own, [])


def test_a_claim_is_read_as_it_was_written_and_nonsense_is_an_old_claim():
    claim = Claim("a", 3, "host:1:2@b", beat=7)
    assert Claim.read("a", claim.text) == claim and claim.who == "process 1 on host"
    for text in ("", "{", "[1]", "7", '{"term": 1}', '{"term": 1, "runner": "x", "beat": 1, "more": 1}'):
        assert Claim.read("a", text) == Claim("a", 0, "")


def test_a_step_is_resumed_only_where_its_processes_can_be_stopped():
    there, here, older = Started("1", here=False), Started("2"), Started("3")
    assert claims.resumed([there, here, older]) == ("2", ["1", "3"])
    assert claims.resumed([there]) == ("", ["1"])
    assert claims.resumed([]) == ("", [])


def test_what_is_complete_is_not_ended():
    assert claims.left_over([Started("1", complete=True), Started("2")]) == ["2"]


def test_nothing_of_a_stopped_study_starts():
    assert claims.refused("train/a/s0@1", {"1"}) and claims.refused("train/a/s0@1", {"train/a/s0@1"})
    assert not claims.refused("train/a/s0@2", {"1", "train/a/s0@1"})
