import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import mlflow
import nbformat
import pandas as pd
import pytest
import yaml
from conftest import PROJECT

from cxr import tracking
from cxr.core import execution
from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.study import cluster, executing, following, grid, preflight, report_page, runner, session
from cxr.study.console import say
from cxr.study.grid import Setup

FILTERS = {"architecture": [], "seed": []}
PARAMETERS = {
    "1_train": {"name": "x", "phantom_images": 60, "architecture": "CompactResNetV2", "seed": 0},
    "2_attribute": {"name": "x", "train_run_id": "", "method": ["layercam", "gradcampp"], **FILTERS},
    "3_score": {"name": "x", "attribute_run_id": "", "method": "layercam", "n_boot": 2000, **FILTERS},
    "4_compare": {"name": "x", "score_run_ids": [], "n_boot": 2000, "method": [], **FILTERS},
}
START = {
    "1_train": """
from cxr import tracking
from cxr.core.params import TrainParams
from cxr.data import manifest as data_manifest
settings = TrainParams.from_notebook(globals())
inputs = {"manifest": data_manifest.manifest_hash(data_manifest.build_manifest(settings))}
run = tracking.start("train", settings, name="train", inputs=inputs)
print("» epoch 1/1")
print("{marker}")
""",
    "2_attribute": """
from cxr import tracking
from cxr.core.params import AttributeParams
settings = AttributeParams.from_notebook(globals())
train = tracking.stored(settings.train_run_id)
run = tracking.start("attribute", settings, name="attribute", inputs=tracking.upstream(train.run_id),
               params={"seed": train.params["seed"]})
""",
    "3_score": """
from cxr import tracking
from cxr.core.params import ScoreParams
settings = ScoreParams.from_notebook(globals())
run = tracking.start("score", settings, name="score", inputs=tracking.upstream(settings.attribute_run_id))
run.metrics({"overlap_median": 0.5, "overlap_ci_low": 0.4, "overlap_ci_high": 0.625, "n_images": 12,
             "n_empty": 0, "auc_macro_before": 0.9, "centroid_shift_median": float("nan")})
""",
    "4_compare": """
from cxr import tracking
from cxr.core.params import CompareParams
settings = CompareParams.from_notebook(globals())
run = tracking.start("compare", settings, name="compare", inputs=tracking.upstream(*settings.score_run_ids))
print("the verdict:", len(settings.score_run_ids))
""",
}


def write_notebooks(folder: Path, **extra: str) -> Path:
    """Write four small notebooks. `extra`: the source of a cell before the last, by stage."""
    folder.mkdir(exist_ok=True)
    for stage, name in tracking.STAGES.items():
        if name not in PARAMETERS:
            continue
        lines = [f"{key} = {value!r}" for key, value in PARAMETERS[name].items()]
        cells = [nbformat.v4.new_code_cell("\n".join(["# Parameters", *lines]), metadata={"tags": ["parameters"]})]
        cells.append(nbformat.v4.new_code_cell(START[name].strip()))
        if stage in extra:
            cells.append(nbformat.v4.new_code_cell(extra[stage]))
        cells.append(nbformat.v4.new_code_cell("run.finish()"))
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")
    return folder


def write_params(path: Path, **values) -> Path:
    defaults = {
        "name": "fake",
        "phantom_images": 60,
        "architecture": ["CompactDenseNet"],
        "seed": [0],
        "method": ["layercam", "gradcampp"],
        "n_boot": 100,
        "jobs": 1,
    }
    path.write_text(yaml.safe_dump({**defaults, **values}))
    return path


@pytest.fixture
def notebooks(tmp_path):
    return write_notebooks(tmp_path / "notebooks")


@pytest.fixture
def store(tmp_path, monkeypatch, new_store):
    uri = new_store(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return uri


@pytest.fixture
def go(tmp_path, store, monkeypatch):
    """Run a study without building networks; other tests do that."""
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)

    def run(params: Path, notebooks: Path, overrides=None, **options) -> int:
        overrides = overrides or {}
        params_ = StudyParams.read(params, overrides)
        return runner.run(
            params_, params, overrides, out=tmp_path / "out", notebooks=notebooks, tracking_uri=store, **options
        )

    return run


def undated(name: str) -> str:
    """The name of a run without the date, which the study's own run has."""
    return re.sub(r" \d{4}-\d\d-\d\d", "", name)


def runs_by_stage(complete=True) -> dict[str, list[tracking.StoredRun]]:
    found: dict[str, list[tracking.StoredRun]] = {}
    for run in tracking.find(experiment="fake", complete=complete):
        found.setdefault(run.stage, []).append(run)
    return found


def counts(runs: dict[str, list[tracking.StoredRun]]) -> dict[str, int]:
    return {stage: len(found) for stage, found in runs.items()}


# -- planning


def test_plan_is_the_grid_each_step_after_what_it_needs():
    params = StudyParams(architecture=["CompactDenseNet", "DenseNet201"], seed=[0, 3], method=["gradcampp"])
    steps = grid.plan(params)
    assert [step.key for step in steps] == [
        "train/CompactDenseNet/s0",
        "attribute/CompactDenseNet/s0",
        "score/CompactDenseNet/s0/gradcampp",
        "train/CompactDenseNet/s3",
        "attribute/CompactDenseNet/s3",
        "score/CompactDenseNet/s3/gradcampp",
        "train/DenseNet201/s0",
        "attribute/DenseNet201/s0",
        "score/DenseNet201/s0/gradcampp",
        "train/DenseNet201/s3",
        "attribute/DenseNet201/s3",
        "score/DenseNet201/s3/gradcampp",
        "compare",
    ]
    assert steps[2].needs == ("attribute/CompactDenseNet/s0",)
    assert steps[2].parameters == {"method": "gradcampp"}
    assert steps[-1].needs == tuple(step.key for step in steps if step.stage == "score")
    assert steps[3].parameters == {"architecture": "CompactDenseNet", "seed": 3}


def test_an_external_set_is_compared_for_each_training(tmp_path):
    layout = {"data": "there/table.csv", "label_map": {"Normal": "normal"}, "architecture": ["DenseNet201"]}
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(layout))
    external = {"a": "/data/a", "b": str(tmp_path / "there.yaml")}
    study = StudyParams(architecture=["CompactDenseNet"], seed=[0, 1], method=["gradcampp"], external=external)
    steps = {step.key: step for step in grid.plan(study)}
    keys = [f"external/CompactDenseNet/s{seed}/{name}" for seed in (0, 1) for name in ("a", "b")]
    assert [key for key in steps if key.startswith("external/")] == keys
    assert steps[keys[0]].needs == ("train/CompactDenseNet/s0",) and set(keys) <= set(steps["compare"].needs)
    assert steps[keys[0]].parameters["data"] == "/data/a" and steps[keys[1]].params == {"external": "b"}
    own = steps[keys[1]].parameters
    assert own["data"] == str(Path("there/table.csv").absolute()) and own["label_map"] == {"Normal": "normal"}
    assert "architecture" not in own and own["method"] == ["gradcampp"] and own["image_size"] == study.image_size
    setup = grid.Setup(tmp_path / "study.yaml", {"seed": [5]}, PROJECT / "notebooks", tmp_path / "out")
    settings = setup.settings(steps[keys[1]], {"train/CompactDenseNet/s0": "abc"})
    assert settings.train_run_id == "abc" and settings.seed == 0  # it reads no parameter file of the study
    words = setup.command(steps[keys[0]], {"train/CompactDenseNet/s0": "abc"})
    assert "-f" not in words and "train_run_id: abc" in words[-1]
    ids = {key: f"id {key}" for key in steps}
    given = yaml.safe_load(setup.command(steps["compare"], ids)[-1])
    assert given["external_run_ids"] == [ids[key] for key in keys] and len(given["score_run_ids"]) == 2


@pytest.mark.parametrize(
    ("external", "match"),
    [
        ({"test": "/data"}, "and not 'test', got 'test'"),
        ({"a b": "/data"}, "use letters, digits"),
        ({"a": ""}, "a: name a folder, a table or a parameter file, got ''"),
        ({"a": "phantom"}, "a: name a folder"),
    ],
)
def test_names_and_places_of_external_sets_are_checked(external, match):
    with pytest.raises(InputError, match=match):
        StudyParams.check({"external": external}, where="study")


def test_command(tmp_path):
    study = StudyParams(architecture=["CompactDenseNet"], seed=[0], method=["layercam", "gradcampp"])
    steps = {step.stage: step for step in grid.plan(study)}

    def words(stage, overrides, runs):
        setup = Setup(Path("params/study.yaml"), overrides, notebooks=Path("notebooks"), out=Path("a b"))
        command = setup.command(steps[stage], runs)
        return command[command.index("notebooks/" + steps[stage].notebook + ".ipynb") :]

    common = ["-k", "python3", "--log-output", "--no-progress-bar", "-f", "params/study.yaml"]
    assert words("train", {}, {}) == [
        *("notebooks/1_train.ipynb", "a b/train-CompactDenseNet-s0.ipynb", *common),
        *("-p", "architecture", "CompactDenseNet", "-p", "seed", "0"),
    ]
    assert words("attribute", {}, {}) == [
        *("notebooks/2_attribute.ipynb", "a b/attribute-CompactDenseNet-s0.ipynb", *common),
        *("-r", "train_run_id", "<train/CompactDenseNet/s0>"),
    ]
    # YAML and papermill's -p would read this run id as a number
    assert words("score", {"n_boot": 200}, {"attribute/CompactDenseNet/s0": "123e4567"})[-8:] == [
        *("-y", "{n_boot: 200}", "-p", "method", "gradcampp", "-r", "attribute_run_id", "123e4567"),
    ]
    ids = {"score/CompactDenseNet/s0/layercam": "aa", "score/CompactDenseNet/s0/gradcampp": "12"}
    last = words("compare", {}, ids)
    assert last[-2] == "-y" and yaml.safe_load(last[-1]) == {"score_run_ids": ["aa", "12"]}


def test_settings_are_those_that_the_notebook_will_have(tmp_path, notebooks):
    params = write_params(tmp_path / "study.yaml")
    steps = {step.key: step for step in grid.plan(StudyParams.read(params))}
    setup = Setup(params, {"n_boot": 300}, notebooks, tmp_path / "out")
    step = steps["score/CompactDenseNet/s0/gradcampp"]
    settings = setup.settings(step, {"attribute/CompactDenseNet/s0": "ab"})
    assert (settings.method, settings.n_boot, settings.attribute_run_id, settings.name) == (
        *("gradcampp", 300, "ab", "fake"),
    )


def test_a_parameter_that_the_notebook_lacks_is_refused(tmp_path, notebooks):
    params = write_params(tmp_path / "study.yaml", level=0.9)  # papermill only warns of it
    steps = grid.plan(StudyParams.read(params))
    with pytest.raises(InputError, match=r"3_score.ipynb: its parameters cell .* lacks level"):
        Setup(params, {}, notebooks, tmp_path / "out").settings(steps[2], {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("seed = int('3')", "only `name = literal` lines"),
        ("seed = (", "only `name = literal` lines"),
        ("banana = 3", "banana, which is no parameter"),
    ],
)
def test_parameters_cells_hold_literals_of_known_names(tmp_path, source, message):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "1_train.ipynb")
    params = write_params(tmp_path / "study.yaml")
    step = grid.plan(StudyParams.read(params))[0]
    with pytest.raises(InputError, match=message):
        Setup(params, {}, tmp_path, tmp_path / "out").settings(step, {})


def test_a_notebook_without_parameters_cell_or_at_all(tmp_path):
    with pytest.raises(InputError, match="cannot read the notebook"):
        execution.parameters_of(tmp_path / "none.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "1_train.ipynb")
    with pytest.raises(InputError, match="no cell is tagged 'parameters'"):
        execution.parameters_of(tmp_path / "1_train.ipynb")


def test_a_default_of_a_notebook_that_differs_from_the_study_s_is_refused(tmp_path, store, notebooks):
    params = tmp_path / "study.yaml"
    params.write_text("name: fake\n")  # phantom_images: 60 in the notebook, 2000 in StudyParams
    with pytest.raises(InputError, match=r"phantom_images = 60 where a study has 2000.*add it there"):
        runner.run(StudyParams.read(params), params, {}, notebooks=notebooks, dry_run=True)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_has_a_bar_and_a_file_has_lines(monkeypatch, is_terminal):
    study = StudyParams(name="mine", seed=[0], method=["layercam"])
    steps = grid.plan(study)  # three architectures: 10 notebooks
    setup = Setup(Path(), {}, Path(), Path())
    session_ = session.Session(study, setup, steps, pd.DataFrame(), tracking_uri="", environment={})
    out = io.StringIO()
    out.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stdout", out)
    found = following.Following(session_, session.State(runs=dict.fromkeys("abcde", "x")))
    found.note({"key": steps[0].key, "progress": "» epoch 3/4"})
    found.show([steps[0]])
    say("[6/10] a notebook: done in 40 s")
    found.bar.update()
    found.bar.close()
    if is_terminal:
        assert "mine:" in out.getvalue() and "5/10" in out.getvalue()
        assert f"{steps[0].name} » epoch 3/4" in out.getvalue()
        assert "\r[6/10] a notebook: done in 40 s\n" in out.getvalue()
    else:
        assert out.getvalue() == "[6/10] a notebook: done in 40 s\n"


def test_threads_are_shared_between_jobs_and_the_user_s_own_number_is_kept(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    values = session.environment(tracking.project() / "notebooks", 3)
    assert (values["OMP_NUM_THREADS"], values["TF_NUM_INTRAOP_THREADS"]) == ("2", "7")
    assert values["PYTHONHASHSEED"] == "0" and "CXR_NOTEBOOKS" not in values
    assert "OMP_NUM_THREADS" not in session.environment(Path("elsewhere"), 1)
    assert (cluster.embedded_slots(0, 0), cluster.embedded_slots(5, 0)) == (4, 5)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert cluster.embedded_slots(0, 0) == 1


# -- the report


def test_report_is_for_readers(tmp_path):
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
    output = nbformat.v4.new_output
    cells = [
        nbformat.v4.new_markdown_cell("# Verdict of the study"),
        nbformat.v4.new_code_cell(
            "secret_code = 1",
            outputs=[
                output("stream", name="stdout", text="» epoch 1/40\nstable everywhere\n"),
                output("stream", name="stderr", text="some warning\n"),
                output("display_data", data={"image/png": dot}),
            ],
        ),
        nbformat.v4.new_code_cell("x", metadata={"tags": ["hide"]}, outputs=[output("stream", text="unwanted")]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    report_page.export(tmp_path / "n.ipynb", tmp_path / "n.html")
    html = (tmp_path / "n.html").read_text(encoding="utf-8")
    assert "Verdict of the study" in html and "stable everywhere" in html
    assert f"data:image/png;base64,{dot}" in html
    assert not re.search(r"(src|href)=.?http", html)
    for left_out in ("secret_code", "some warning", "unwanted", "epoch 1/40", "In&nbsp;[", "Out[1]", "[ ]:"):
        assert left_out not in html


# -- before anything runs


def test_data_is_checked_before_the_first_run(tmp_path, notebooks, store):
    params = write_params(tmp_path / "study.yaml")
    overrides = {"data": str(tmp_path / "nowhere")}
    params_ = StudyParams.read(params, overrides)
    notebooks = write_notebooks(tmp_path / "notebooks")
    for path in notebooks.glob("[12]*.ipynb"):
        path.write_text(path.read_text().replace("# Parameters\\n", "# Parameters\\ndata = ''\\n"))
    with pytest.raises(InputError, match="nowhere"):
        runner.run(params_, params, overrides, notebooks=notebooks, out=tmp_path / "out")
    assert tracking.find(experiment="fake", complete=False) == []


@pytest.mark.slow
def test_preflight_refuses_layers_that_there_are_not():
    from cxr.data import manifest as data_manifest

    params = StudyParams(weights="none", target_layer="no_such_layer", phantom_images=60)
    with pytest.raises(InputError, match="no_such_layer"):
        preflight.check(params, data_manifest.build_manifest(params), ["CompactDenseNet"])


@pytest.mark.slow
def test_preflight_says_what_memory_is_needed(monkeypatch, capsys):
    from cxr.data import manifest as data_manifest

    params = StudyParams(weights="none", phantom_images=60)
    manifest = data_manifest.build_manifest(params)
    preflight.check(params, manifest, ["CompactDenseNet"], at_once=1)
    assert "memory: fine-tuning CompactDenseNet takes about" in capsys.readouterr().out
    monkeypatch.setattr(preflight.memory, "of_machine", lambda: 0.25)
    with pytest.raises(InputError, match="this machine has 0.2: lower batch_size"):
        preflight.check(params, manifest, ["CompactDenseNet"], at_once=1)
    preflight.check(params, manifest, ["CompactDenseNet"])  # on other machines


# -- running


@pytest.mark.slow
def test_a_study_runs_resumes_and_runs_again_only_what_depends_on_a_change(tmp_path, notebooks, store, go, capsys):
    tracking.connect(store)
    tags = {"cxr.stage": "train", "cxr.complete": "true"}
    old = tracking.create_run(experiment="fake", name="of an earlier version", tags=tags, params={})
    tracking.end_run(old, "FINISHED")
    mlflow.MlflowClient().delete_tag(old, "cxr.schema")
    params = write_params(tmp_path / "study.yaml", method=["layercam"])
    assert go(params, notebooks, {"jobs": 2}) == 0
    output = capsys.readouterr().out
    assert "experiment fake: 1 run of an earlier version of cxr, which this study does not use" in output
    first = runs_by_stage()
    assert counts(first) == {"train": 1, "attribute": 1, "score": 1, "compare": 1, "study": 1}
    train = first["train"][0]
    parent = first["study"][0]
    assert train.params["architecture"] == "CompactDenseNet" and train.tags["mlflow.parentRunId"] == parent.run_id
    assert "cxr.fingerprint.planned" not in train.tags  # the notebook and the study agree
    assert {"notebook.ipynb", "parameters.yaml", "environment.json"} <= set(train.artifacts())
    executed = train.file("notebook.ipynb").read_text(encoding="utf-8")
    assert "epoch 1/1" in executed
    assert first["score"][0].params["method"] == "layercam"
    assert first["attribute"][0].tags["cxr.inputs.train"] == train.run_id
    assert "the verdict: 1" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert first["compare"][0].has("report.html")
    assert "cxr.undefined" in first["score"][0].tags
    assert re.findall(r"^.*: (started|done)", output, re.M) == ["started", "done"] * 4  # one needs the other
    assert (
        re.search(r"^\[1/4\] train .*: done in [\d.]+ (s|min|h)$", output, re.M)
        and "[4/4] compare: done" in output
    )
    rows = [line.split() for line in output.splitlines() if line.startswith("? CompactDenseNet")]
    values = ["0", "0.900", "-", "0.50", "[0.40,", "0.62]", "-", "-", "-"]
    assert rows == [["?", "CompactDenseNet", "layercam", *values]]

    assert go(params, notebooks) == 0
    assert "4 done already, 0 to run" in capsys.readouterr().out
    assert runs_by_stage(complete=False) == first

    assert go(params, notebooks, {"n_boot": 150}) == 0
    more = {"train": 1, "attribute": 1, "score": 2, "compare": 2, "study": 2}
    assert counts(runs_by_stage(complete=False)) == more
    # back to the first value: nothing to do
    assert go(params, notebooks) == 0
    assert counts(runs_by_stage(complete=False)) == more
    # also if the same notebook was run by hand meanwhile
    tags = {"cxr.stage": "train", "cxr.fingerprint": train.fingerprint, "cxr.complete": "true"}
    tracking.end_run(tracking.create_run(experiment="fake", name="by hand", tags=tags, params={}), "FINISHED")
    capsys.readouterr()
    assert go(params, notebooks) == 0
    assert "4 done already, 0 to run" in capsys.readouterr().out

    # in a dry run, done steps are comments with their runs
    options = {"notebooks": notebooks, "out": tmp_path / "out", "dry_run": True}
    assert runner.run(StudyParams.read(params), params, {}, **options) == 0
    assert f"# train/CompactDenseNet/s0: done already, run {train.run_id}" in capsys.readouterr().out

    # changed code runs what uses it, and `fresh` runs everything
    write_notebooks(notebooks, compare="print('more')")
    assert go(params, notebooks) == 0
    more = {"train": 2, "attribute": 1, "score": 2, "compare": 3, "study": 2}  # one train run was made by hand
    assert counts(runs_by_stage()) == more
    assert go(params, notebooks, fresh=True) == 0
    assert counts(runs_by_stage()) == {stage: count + 1 for stage, count in more.items()}


def environment_of(process) -> dict[str, str]:
    import psutil

    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


@pytest.mark.parametrize("died", ["train", "attribute"])
@pytest.mark.parametrize("how", ["worker lost", "failed"])
def test_the_step_that_died_is_named_in_whatever_order_the_ends_come(tmp_path, how, died):
    study = StudyParams(name="mine", seed=[0], method=["layercam"], architecture=["CompactDenseNet"])
    steps = {step.stage: step for step in grid.plan(study)}
    key = steps[died].key
    error = executing.StepFailed(key, "boom")
    if how == "worker lost":
        error = distributed.KilledWorker(f"{key}@1.2", SimpleNamespace(address="tcp://x:1"), 3)

    def fail():
        raise error

    setup = Setup(Path(), {}, Path(), tmp_path)
    own = session.Session(study, setup, list(steps.values()), pd.DataFrame(), tracking_uri="", environment={})
    state = session.State()
    found = following.Following(own, state)
    for stage in ("compare", "score", died):  # Dask may tell of the last one first
        found.end(steps[stage], SimpleNamespace(result=fail))
    assert state.failures[steps["compare"].key] == state.failures[steps["score"].key] == f"not run: {key} failed"
    said = "several workers were lost with this notebook" if how == "worker lost" else "boom"
    assert state.failures[key].startswith(said)


FAIL = """
import os
if seed == 1:
    raise ValueError("boom\\nand more")
if seed == 2:
    os._exit(3)
if seed == 3:
    run.finish()
    1 / 0
if seed == 4:
    run.finish = lambda: None
"""


@pytest.mark.slow
def test_what_fails_holds_back_only_what_depends_on_it(tmp_path, go, capsys):
    notebooks = write_notebooks(tmp_path / "notebooks", train=FAIL)
    params = write_params(tmp_path / "study.yaml", seed=[0, 1, 2, 3, 4], method=["layercam"], jobs=2)
    assert go(params, notebooks) == 1
    runs = {undated(run.name): run for run in tracking.find(experiment="fake", complete=False)}
    assert {name: run.status for name, run in runs.items()} == {
        "train CompactDenseNet s0": "FINISHED",
        "attribute CompactDenseNet s0": "FINISHED",
        "score CompactDenseNet s0 layercam": "FINISHED",
        **{f"train CompactDenseNet s{seed}": "FAILED" for seed in (1, 2, 3, 4)},
        "study fake": "FAILED",
    }
    boom, dead = runs["train CompactDenseNet s1"], runs["train CompactDenseNet s2"]
    assert boom.tags["cxr.error"] == "ValueError: boom" and "DeadKernelError" in dead.tags["cxr.error"]
    after_finish, unfinished = runs["train CompactDenseNet s3"], runs["train CompactDenseNet s4"]
    assert after_finish.tags["cxr.error"] == "ZeroDivisionError: division by zero"
    assert unfinished.tags["cxr.error"] == "the notebook ended without `run.finish()`"
    assert [run.params["seed"] for run in tracking.find("train", experiment="fake")] == ["0"]
    for run in (boom, dead):
        assert run.has("notebook.ipynb")
        assert not run.complete
    notebook = boom.json("notebook.ipynb")
    assert any(out["output_type"] == "error" for cell in notebook["cells"] for out in cell.get("outputs", []))
    output = capsys.readouterr().out
    assert "train CompactDenseNet s1: FAILED after" in output and "train-CompactDenseNet-s1.ipynb" in output
    assert "score CompactDenseNet s1 layercam: not run: train/CompactDenseNet/s1 failed" in output
    assert re.search(r"compare: not run: train/CompactDenseNet/s[1234] failed", output)


@pytest.mark.slow
def test_a_printed_command_works_when_typed(tmp_path, notebooks, monkeypatch, capsys):
    store = f"sqlite:///{tmp_path}/store/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    params = write_params(tmp_path / "study.yaml")
    out = tmp_path / "o u t"
    overrides = {"seed": [5]}
    options = {"notebooks": notebooks, "out": out, "dry_run": True}
    runner.run(StudyParams.read(params, overrides), params, overrides, **options)
    lines = capsys.readouterr().out.splitlines()
    assert not out.exists() and tracking.is_new(store)
    exports = [line for line in lines if line.startswith(("export ", "mkdir "))]
    commands = [line for line in lines if "1_train.ipynb" in line]
    assert len(commands) == 1 and "<train/CompactDenseNet/s5>" in "\n".join(lines)
    words = shlex.split(commands[0])
    assert words[words.index("-f") + 1] == str(params)
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = "\n".join([*exports, commands[0]])
    subprocess.run(["bash", "-ec", script], check=True, env=environment, capture_output=True, timeout=120)
    tracking.connect(store)
    run = next(run for run in tracking.find("train", experiment="fake") if run.params["seed"] == "5")
    assert run.params["architecture"] == "CompactDenseNet"
    assert run.has("notebook.ipynb")  # also for a notebook that is run by hand


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_stops_the_notebooks_and_the_same_command_resumes(tmp_path, store, presses):
    notebooks = write_notebooks(tmp_path / "notebooks", train="import time\nprint('» waiting')\ntime.sleep(300)")
    params = write_params(tmp_path / "study.yaml", method=["layercam"], seed=[0, 1, 2, 3])
    code = "\n".join(
        [
            "import sys",
            "from cxr.cli import main",
            "from cxr.study import preflight",
            "preflight.check = lambda *_, **__: None",
            "sys.exit(main.main(sys.argv[1:]))",
        ]
    )
    environment = {**os.environ, "CXR_NOTEBOOKS": str(notebooks)}
    log = tmp_path / "out" / "train-CompactDenseNet-s0.log"
    words = [sys.executable, "-c", code, "study", str(params), "--out", str(tmp_path / "out")]
    said = tmp_path / "said.txt"
    # where tests run in the background, Ctrl-C may be switched off, and children would inherit that
    options = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with said.open("w") as stdout, subprocess.Popen(words, env=environment, stdout=stdout, **options) as study:
        import psutil

        for file, sign in [(log, "» waiting"), (said, "stopping the notebooks")][:presses]:
            deadline = time.monotonic() + 400
            while not (file.is_file() and sign in file.read_text()):
                assert study.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            if file == log:
                family = psutil.Process(study.pid).children(recursive=True)
            study.send_signal(signal.SIGINT)  # the second time while it is stopping
        study.wait(timeout=300)
    output = said.read_text()
    assert study.returncode == 130
    assert "Run the same command again to go on" in output
    assert ("press Ctrl-C again to leave at once" in output) == (presses > 1)
    assert output.count(": started") == 1  # the steps that waited did not start
    assert len(family) >= 2 and psutil.wait_procs(family, timeout=5)[1] == []  # papermill and its kernel
    tracking.connect(store)
    assert {undated(run.name): run.status for run in tracking.find(experiment="fake", complete=False)} == {
        "train CompactDenseNet s0": "KILLED",
        "study fake": "KILLED",
    }
    runs = {run.run_id for run in tracking.find(experiment="fake", complete=False)}
    assert not [one for one in psutil.process_iter() if environment_of(one).get("MLFLOW_RUN_ID") in runs]
