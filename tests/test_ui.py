"""`cxr ui`, and what the tables, charts and first lines of the UI show of a study."""

import base64
import json
import math
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zlib

import mlflow
import pandas as pd
import psutil
import pytest
from servers import free_port

from cxr import tracking
from cxr.study import study_run
from cxr.tracking import readable, views

SUMMARY = pd.DataFrame(
    {
        "architecture": ["A", "A"],
        "method": ["layercam", "gradcam"],
        "map_check": ["yes", "no"],
        "auc_macro_before": [0.94802, 0.94802],
        "auc_macro_after": [0.95691, 0.95691],
        "overlap_median": [0.54871, 0.68802],
        "overlap_ci_low": [0.46713, 0.65816],
        "overlap_ci_high": [0.6303, 0.71788],
        "overlap_two_patients_median": [0.22300, 0.28177],
        "overlap_two_seeds_median": [0.55382, math.nan],
        "overlap_corrected_median": [0.41939, 0.56559],
    }
)
METRICS = {"overlap_median": 0.53095, "overlap_ci_low": 0.48718, "overlap_ci_high": 0.56048, "n_images": 111.0}


@pytest.fixture
def store(tmp_path, monkeypatch, new_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # undone after the test, whatever `connect` sets
    yield tracking.connect(new_store(tmp_path / "store"))


def finished(stage, name, *, parent=None, method="", **tags):
    params = {"architecture": "A", "method": method, "passes_checks": str(method == "layercam")}
    own = {"cxr.stage": stage, "cxr.complete": "true", **tags}
    run_id = tracking.create_run(experiment="demo", name=name, tags=own, params=params, parent=parent)
    if stage == "score":
        tracking.log_metrics(run_id, METRICS)
    tracking.end_run(run_id, "FINISHED")
    return run_id


def shown(view):
    """Names of the runs that a view of the experiment holds."""
    experiment = mlflow.get_experiment_by_name("demo")
    value = json.loads(experiment.tags[f"mlflow.sharedViewState.{views.KEYS[view][0]}"])
    state = json.loads(zlib.decompress(base64.b64decode(value["state"].removeprefix("deflate;"))))
    found = mlflow.search_runs([experiment.experiment_id], state["searchFilter"], output_format="list")
    return sorted(run.info.run_name for run in found)


def end_study(parent, runs, summary=SUMMARY):
    study_run.publish_grid(parent, runs, summary)
    tracking.describe_experiment("demo", "The answer.", methods=["layercam"], classes=["x"], study=parent)


# -- views


def test_a_view_holds_the_runs_of_the_finished_study_and_none_run_by_hand(store):
    parent = finished("study", "study")
    runs = {"train/A/s0": finished("train", "train", parent=parent)}
    runs["attribute/A/s0"] = finished("attribute", "attribute", parent=parent)
    runs["score/A/s0/layercam"] = finished("score", "score", parent=parent, method="layercam")
    for stage in ("train", "attribute", "score", "compare"):
        finished(stage, f"{stage} by hand", method="layercam")
    assert shown("scores") == ["score", "score by hand"]  # no study has ended
    end_study(parent, runs)
    assert shown("scores") == shown("charts") == ["score"]
    assert shown("training") == ["train"] and shown("maps") == ["attribute"] and shown("studies") == ["study"]
    # one more by hand, after the end: the same runs, and one seed counts once
    finished("score", "score again", method="layercam")
    assert shown("scores") == ["score"]


def test_a_view_follows_the_study_that_ended_last_and_holds_what_it_reuses(store):
    first, second = finished("study", "first"), finished("study", "second")
    shared = finished("score", "seed 0", parent=first, method="layercam")
    end_study(first, {"score/A/s0/layercam": shared})
    added = finished("score", "seed 1", parent=second, method="layercam")
    assert shown("scores") == ["seed 0"]  # while the second runs
    end_study(second, {"score/A/s0/layercam": shared, "score/A/s1/layercam": added})
    assert shown("scores") == ["seed 0", "seed 1"]
    # a study that fails changes no view
    tracking.describe_experiment("demo", "It failed.", methods=["layercam"], classes=["x"])
    assert shown("scores") == ["seed 0", "seed 1"]


def test_rows_of_a_study_are_rounded_and_grouped_by_network_and_method_with_their_mark(store):
    parent = finished("study", "study")
    good, bad = (finished("score", name, method=name) for name in ("layercam", "gradcam"))
    end_study(parent, {"score/A/s0/layercam": good, "score/A/s0/gradcam": bad})
    good, bad = tracking.stored(good), tracking.stored(bad)
    assert good.tags["overlap"] == "0.53 [0.49, 0.56]" and good.metrics["overlap_median"] == 0.53095
    assert (good.tags["two seeds"], bad.tags["two seeds"]) == ("0.55", "-")
    assert good.tags["cell"] == "A layercam" and bad.tags["cell"] == "A gradcam (maps FAIL)"
    assert (good.tags["map checks"], bad.tags["map checks"]) == ("pass", "FAIL")
    tags = views.tags(study=parent)
    value = json.loads(tags["mlflow.sharedViewState.cxr-means"])["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(value)))
    assert [key["groupByData"] for key in state["groupBy"]["groupByKeys"]] == ["cell"]
    columns = [column.split("`")[1] for column in state["selectedColumns"]]
    assert set(columns) - {"AUC before", "AUC after", "corrected overlap"} <= good.tags.keys()


def test_what_numbers_are_worth():
    assert [readable.number(value) for value in (0.5346, -0.001, 1.0, math.nan, None)] == [
        *("0.53", "0.00", "1.00", "-", "-")
    ]
    assert readable.interval(METRICS, "overlap") == "0.53 [0.49, 0.56]"
    assert readable.interval({"overlap_median": 0.531}, "overlap") == "0.53"
    assert readable.interval({}, "overlap") == "-"
    metrics = {"auc_macro_after": 0.957, "seconds_transfer": 20.4, "seconds_fine_tuning": 9}
    found = readable.tags("train", {}, metrics)
    assert found["AUC after"] == "0.96" and found["AUC before"] == "-" and found["seconds"] == "29"
    assert readable.tags("attribute", {}, METRICS) == {}


# -- the study's run


def test_the_study_run_carries_its_main_numbers_as_metrics(store):
    parent = finished("study", "study")
    tracking.log_metrics(parent, study_run.headline_metrics(SUMMARY))
    found = tracking.stored(parent).metrics
    assert found["overlap/A/layercam"] == 0.55 and found["overlap/A/gradcam"] == 0.69
    assert found["two_seeds/A/layercam"] == 0.55 and "two_seeds/A/gradcam" not in found
    assert (found["passes_checks/A/layercam"], found["passes_checks/A/gradcam"]) == (1, 0)
    assert (found["auc_before/A"], found["auc_after/A"]) == (0.95, 0.96)


# -- comparing runs


def test_ids_and_hashes_are_no_parameters_for_the_ui_and_are_for_the_code(store):
    params = {"architecture": "A", "attribute_run": "a" * 32, "checkpoint_sha256_after": "b"}
    run_id = tracking.create_run(experiment="demo", name="score", tags={"cxr.stage": "score"}, params=params)
    assert set(mlflow.get_run(run_id).data.params) == {"architecture"}
    found = tracking.stored(run_id).params
    assert found == {"architecture": "A", "attribute_run": "a" * 32, "checkpoint_sha256_after": "b"}


# -- the command


def test_the_link_is_to_the_scores_of_the_study_that_ended_last(store):
    assert tracking.front_page("http://here") == "http://here"
    for name, stage in (("old", "study"), ("new", "study"), ("by-hand", "score")):
        own = {"cxr.stage": stage, "cxr.complete": "true"}
        tracking.end_run(tracking.create_run(experiment=name, name=stage, tags=own, params={}), "FINISHED")
    number = tracking.experiment_id("new")
    page = tracking.front_page("http://here")
    assert page.startswith(f"http://here/#/experiments/{number}/runs?viewStateShareKey=cxr-scores&")


def _listen():
    """Where tests run in the background, signals may be switched off, and children inherit that."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


# A stand-in for `cxr ui` with a server that has a child, as MLflow's has.
_PARENT = """
import sys, time
from cxr.cli import ui
child = "import time; time.sleep(600)"
server = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
server += "print(p.pid, file=sys.stderr, flush=True); "
ui.start([sys.executable, "-c", server + child], "sqlite:///x")
time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_the_server_and_its_children_end_with_the_process_that_started_them(how):
    words = [sys.executable, "-c", _PARENT]
    listening = {"preexec_fn": _listen}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **listening) as parent:
        grandchild = psutil.Process(int(parent.stderr.readline()))
        family = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
        assert grandchild in family and len(family) == 4
        parent.send_signal(getattr(signal, how))
        parent.wait(30)
        assert psutil.wait_procs(family[1:], timeout=60)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_cxr_ui_prints_one_link_once_it_answers_and_leaves_nothing_behind(store, tmp_path, how):
    parent, port = finished("study", "study"), free_port()
    end_study(parent, {})
    words = [sys.executable, "-m", "cxr.cli", "ui", "--tracking-uri", store, "--port", str(port)]
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    options["preexec_fn"] = _listen
    said = tmp_path / "stderr.txt"
    with said.open("w") as stderr, subprocess.Popen(words, stderr=stderr, **options) as ui:
        first = ui.stdout.readline().split()
        number = tracking.experiment_id("demo")
        assert first[0] == "Open" and first[1].startswith(f"http://127.0.0.1:{port}/#/experiments/{number}/runs")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
            assert answer.status == 200
        put = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts/x.txt", b"forged", method="PUT"
        )
        with pytest.raises(urllib.error.HTTPError, match="503"):
            opener.open(put, timeout=60)
        assert "every user of this machine can read, change and delete the runs" in said.read_text()
        # other users of the machine see the words of processes
        assert not [one for one in psutil.Process(ui.pid).children(recursive=True) if store in one.cmdline()]
        family = psutil.Process(ui.pid).children(recursive=True)
        assert family
        os.killpg(ui.pid, getattr(signal, how))
        code = ui.wait(60)
        assert code == (0 if how == "SIGINT" else -getattr(signal, how))
        assert "http" not in ui.stdout.read()
        assert psutil.wait_procs(family, timeout=60)[1] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
