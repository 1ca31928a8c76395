import json
import math
import re
import sqlite3
import string
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.figure
import mlflow
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException

from cxr import tracking
from cxr.core.errors import InputError
from cxr.core.params import AttributeParams, CompareParams, ScoreParams, TrainParams
from cxr.tracking import connection

INPUTS = {"manifest": "abc"}


def write_notebook(path: Path, *cells: str) -> Path:
    sources = ["# Parameters\nname = 'demo'\nseed = 0", *cells]
    nodes = [nbformat.v4.new_code_cell(source) for source in sources]
    nodes[0].metadata["tags"] = ["parameters"]
    nodes.insert(1, nbformat.v4.new_markdown_cell("Some words."))
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=nodes, metadata=metadata), path)
    return path


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A folder with a notebook for every stage."""
    folder = tmp_path / "notebooks"
    for name in tracking.STAGES.values():
        write_notebook(folder / f"{name}.ipynb", "from cxr.metrics import similarity", "similarity")
    monkeypatch.setenv("CXR_NOTEBOOKS", str(folder))
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch, notebooks, new_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # undone after the test, whatever `connect` sets
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield tracking.connect(new_store(tmp_path / "store"))
    if mlflow.active_run():
        mlflow.end_run()


def test_processes_that_log_one_data_set_at_once_all_succeed(store):
    """MLflow looks whether a data set is there, then adds it; here another client adds it in between."""
    from mlflow.entities import Dataset, DatasetInput
    from sqlalchemy import event, orm

    client = connection.mlflow_client()
    experiment = client.create_experiment("demo")
    first, second = (client.create_run(experiment).info.run_id for _ in range(2))
    data = [DatasetInput(Dataset("phantom", "abc", "local", "{}"), [])]
    flushed = []

    def other(*_):
        if not flushed:
            flushed.append(1)
            client.log_inputs(second, datasets=data)

    event.listen(orm.Session, "before_flush", other)
    try:
        client.log_inputs(first, datasets=data)
    finally:
        event.remove(orm.Session, "before_flush", other)
    assert flushed
    for run in (first, second):
        [found] = client.get_run(run).inputs.dataset_inputs
        assert found.dataset.name == "phantom"


def complete_run(stage="train", settings=None, **options) -> str:
    settings = settings or TrainParams(name="demo")
    run = tracking.start(stage, settings, name=stage, inputs=options.pop("inputs", INPUTS), **options)
    run.finish()
    return run.run_id


# -- the store


def test_default_store_is_sqlite_in_mlruns(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking.resolve()
    assert uri.startswith("sqlite:////") and uri.endswith("/mlruns/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:1")
    assert tracking.resolve() == "http://somewhere:1"
    assert tracking.resolve("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_relative_sqlite_paths_become_absolute_and_artifacts_lie_beside(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    assert tracking.is_new(tracking.resolve("sqlite:///other/runs.db"))
    uri = tracking.connect("sqlite:///other/runs.db")
    assert uri == f"sqlite:///{tmp_path}/other/runs.db" == tracking.resolve()
    assert not tracking.is_new(uri)
    monkeypatch.chdir("/")
    run_id = complete_run()
    files = [path.name for path in (tmp_path / "other" / "artifacts" / "demo" / run_id).rglob("*.yaml")]
    assert files == ["parameters.yaml"]


def is_kept_in(folder: Path, new_store, monkeypatch) -> bool:
    """Whether a checkout in a folder keeps its runs and their files there, and reads them back."""
    new_store(folder / "mlruns")
    monkeypatch.setattr("cxr.tracking.connection.project", lambda: folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.connect())  # as the processes of a study get it
    assert tracking.connect() == tracking.resolve() and not tracking.is_new(tracking.resolve())
    assert tracking.ui_command(tracking.resolve()) == "cxr ui"
    run_id = tracking.create_run(experiment="demo", name="x", tags={}, params={})
    tracking.log_text(run_id, folder.name, "a/note.txt")
    files = list((folder / "mlruns" / "artifacts" / "demo" / run_id).rglob("note.txt"))
    rows = sqlite3.connect(folder / "mlruns" / "mlflow.db").execute("SELECT run_uuid FROM runs").fetchall()
    return (
        len(files) == 1
        and rows == [(run_id,)]
        and tracking.stored(run_id).file("a/note.txt").read_text() == folder.name
    )


@pytest.mark.parametrize("name", ["Study #1", "100%25", "what?", "a b+ü😀"])
def test_a_folder_s_name_is_no_address(name, tmp_path, store, new_store, monkeypatch):
    assert is_kept_in(tmp_path / name, new_store, monkeypatch)
    assert is_kept_in(tmp_path / name.replace("1", "2"), new_store, monkeypatch) or "1" not in name


@pytest.mark.slow
def test_a_folder_s_name_may_hold_every_punctuation_mark(tmp_path, store, new_store, monkeypatch):
    for number, sign in enumerate(set(string.punctuation) - {"/"}):
        assert is_kept_in(tmp_path / f"{sign}{number} {sign}41{sign}", new_store, monkeypatch), sign


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9: start it"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot hold the MLflow store"),
        ("banana://x", "banana://x cannot be used: mend --tracking-uri"),
    ],
)
def test_a_store_that_cannot_be_had_is_an_input_error_and_changes_nothing(store, uri, message):
    with pytest.raises(InputError, match=message):
        tracking.connect(uri)
    assert tracking.resolve() == store
    complete_run()


def test_a_file_that_is_no_database(tmp_path, store):
    (tmp_path / "x.db").write_text("this is no database, and long enough to be sure of it" * 20)
    with pytest.raises(InputError, match="x.db: cannot be used as the MLflow store .*not a database"):
        tracking.connect(f"sqlite:///{tmp_path}/x.db")


def test_a_deleted_experiment_is_said_to_be_deleted(store):
    complete_run()
    client = mlflow.MlflowClient()
    client.delete_experiment(tracking.experiment_id("demo"))
    with pytest.raises(InputError, match="'demo' was deleted: .*`mlflow experiments restore"):
        tracking.start("train", TrainParams(name="demo"), name="x", inputs=INPUTS)


# -- a notebook's run


def test_a_run_holds_what_it_was_made_of(store):
    settings = TrainParams(name="demo", seed=3, architecture="CompactDenseNet")
    run_id = complete_run(settings=settings, params={"extra": [1, 2]}, tags={"colour": "blue"})
    info = tracking.stored(run_id)
    assert (info.stage, info.status, info.complete, info.experiment_name) == ("train", "FINISHED", True, "demo")
    assert info.params["seed"] == "3" and info.params["architecture"] == "CompactDenseNet"
    assert info.params["extra"] == "1, 2" and info.tags["colour"] == "blue"
    assert set(TrainParams.model_fields) <= set(info.params)
    assert info.tags["cxr.inputs.manifest"] == "abc"
    assert info.fingerprint == tracking.fingerprint("train", settings, INPUTS)
    again = TrainParams(**yaml.safe_load(tracking.stored(run_id).file("parameters.yaml").read_text()))
    assert again == settings
    environment = tracking.stored(run_id).json("environment.json")
    assert environment["packages"]["numpy"] == np.__version__
    assert {"tensorflow", "keras", "tf-keras-vis", "mlflow"} <= set(environment["packages"])


def test_git_commit(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    monkeypatch.setattr("cxr.tracking.provenance.project", lambda: tmp_path)
    assert tracking.git_tags() == {}
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "x")
    tags = tracking.git_tags()
    assert len(tags["mlflow.source.git.commit"]) == 40 and tags["cxr.git.dirty"] == "false"
    (tmp_path / "a").write_text("2")
    assert tracking.git_tags() == {**tags, "cxr.git.dirty": "true"}


def test_a_run_that_the_study_made_is_taken_up(store, monkeypatch):
    planned = tracking.fingerprint("train", TrainParams(name="demo"), INPUTS)
    made = tracking.create_run(
        experiment="demo",
        name="train X s0",
        tags={"cxr.stage": "train", "cxr.fingerprint": planned},
        params={"seed": 0},  # logged again by `start`
    )
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert complete_run() == made
    info = tracking.stored(made)
    assert info.name == "train X s0" and info.complete and "cxr.fingerprint.planned" not in info.tags
    # a second run in the same kernel is another one
    assert complete_run() != made


def test_a_run_goes_on_more_than_once_and_no_setting_changes(store, monkeypatch):
    made = tracking.create_run(experiment="demo", name="x", tags={}, params={})
    for folder in ("/old/place", "/new/place", "/new/place"):
        mlflow.end_run("FAILED")  # in this process
        monkeypatch.setenv("MLFLOW_RUN_ID", made)
        settings = TrainParams(name="demo", data=f"{folder}/images", weights=f"{folder}/w.npz")
        run = tracking.start("train", settings, inputs={"manifest": "a"}, params={"data_root": folder})
        run.params({"resumed": f"after {folder}"})
        found = tracking.stored(made).params
        expected = {"data": f"{folder}/images", "weights": f"{folder}/w.npz", "data_root": folder}
        assert {key: found[key] for key in expected} == expected and found["resumed"] == f"after {folder}"
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        run.params({"seed": 99})  # what is no path is another training
    run.finish()


def test_another_fingerprint_than_planned_is_the_one_that_counts(store, monkeypatch):
    made = tracking.create_run(experiment="demo", name="x", tags={"cxr.fingerprint": "planned"}, params={})
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    tags = tracking.stored(complete_run()).tags
    assert tags["cxr.fingerprint.planned"] == "planned"
    assert tags["cxr.fingerprint"] == tracking.fingerprint("train", TrainParams(name="demo"), INPUTS)


def test_a_run_goes_on_where_its_files_lie_elsewhere(store, monkeypatch):
    def settings(place, images):
        more = {"weights": str(store), "phantom_images": images}  # no file: the fingerprint is the same
        return TrainParams(name="demo", data=f"/{place}/xrays", **more)

    first = tracking.start(
        "train", settings("old", 100), name="x", inputs=INPUTS, params={"data_root": "/old/xrays"}
    )
    first.params({"resumed": "[1]"})
    mlflow.end_run("KILLED")
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    again = tracking.start("train", settings("new", 200), inputs=INPUTS, params={"data_root": "/new/xrays"})
    again.params({"resumed": "[2]"})
    again.finish()
    found = tracking.stored(first.run_id)
    assert again.run_id == first.run_id and found.complete
    places = {key: found.params[key] for key in ("data", "data_root", "weights", "phantom_images", "resumed")}
    assert places == {
        **{"data": "/new/xrays", "data_root": "/new/xrays", "weights": str(store)},
        **{"phantom_images": "200", "resumed": "[2]"},
    }
    assert not {"data", "data_root", "weights"} & mlflow.get_run(first.run_id).data.params.keys()
    assert found.settings == settings("new", 200).model_dump(mode="json")


def test_running_the_first_cell_again_ends_the_first_run(store):
    first = tracking.start("train", TrainParams(name="demo"), name="x", inputs=INPUTS).run_id
    second = complete_run()
    assert tracking.stored(first).status == "KILLED"
    assert [run.run_id for run in tracking.find("train", experiment="demo")] == [second]


def test_only_finished_runs_are_complete(store):
    run_id = complete_run()
    tracking.end_run(run_id, "FAILED")
    info = tracking.stored(run_id)
    assert info.status == "FAILED" and not info.complete
    assert tracking.find(experiment="demo") == []
    assert len(tracking.find(experiment="demo", complete=False)) == 1


def test_a_run_that_was_deleted_meanwhile_has_ended_and_others_must_exist(store):
    """Of processes that start one study at once, those that do not get it delete their runs."""
    for status in ("KILLED", "FINISHED"):
        run_id = tracking.create_run(experiment="fake", name="x", tags={"cxr.complete": "true"}, params={})
        tracking.delete_run(run_id)
        tracking.end_run(run_id, status)
        assert mlflow.get_run(run_id).info.lifecycle_stage == "deleted"
    with pytest.raises(mlflow.exceptions.MlflowException, match="not found"):
        tracking.end_run("0" * 32, "KILLED")


def test_logging(store):
    with pytest.raises(InputError, match="tracking.start"):
        tracking.register(architecture="A", seed=0, weights="none", data="phantom")
    run = tracking.start("train", TrainParams(name="demo"), name="x", inputs=INPUTS)
    run.metrics({"loss": 1.5, "AUC (Ödem)": 0.75, "empty": math.nan})
    run.metrics({"loss": 1.25, "ratio": math.inf, "empty": math.nan}, step=1)
    table = pd.DataFrame({"image_id": ["a/b", "c"], "value": [0.5, math.nan], "n": np.array([1, 2], np.int32)})
    run.table(table, "tables/drift.parquet", show=False)
    run.table(table, "summary.csv", show=False)
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    run.figure(figure, "figures/curve.png", show=False)
    run.image(np.full((5, 4, 3), 7, np.uint8), key="No Finding: Müller.png", step=2)
    run.json({"a": [1, 2]}, "a.json")
    run.text("grüß", "note.txt")
    run.file(__file__, "code")
    run.finish()
    info = tracking.stored(run.run_id)
    metrics = dict(info.metrics)
    assert metrics.pop("peak_memory_mib", 100) > 10  # not on Windows
    assert metrics == {"loss": 1.25, "AUC __dem_": 0.75}
    assert info.tags["cxr.undefined"] == "empty,ratio"
    for name in ("tables/drift.parquet", "summary.csv"):
        pd.testing.assert_frame_equal(info.table(name), table, check_dtype=name.endswith("parquet"))
    assert info.file("figures/curve.png").read_bytes().startswith(b"\x89PNG")
    images = [path.name for path in info.file("images").iterdir()]
    assert len(images) == 2 and all(name.startswith("No Finding_ M_ller.png+step+2+") for name in images)
    assert info.json("a.json") == {"a": [1, 2]}
    assert info.file("note.txt").read_text(encoding="utf-8") == "grüß"
    assert info.file("code/test_tracking.py").read_bytes() == Path(__file__).read_bytes()


def test_what_cannot_be_logged_is_refused(store):
    run = tracking.start("train", TrainParams(name="demo"), name="x", inputs=INPUTS)
    with pytest.raises(InputError, match="uint8"):
        run.image(np.zeros((3, 3)), key="x")
    with pytest.raises(InputError, match="has to end in .parquet or .csv"):
        run.table(pd.DataFrame(), "x.xlsx")
    with pytest.raises(ValueError, match="JSON"):
        run.json({"a": math.nan}, "a.json")


def test_long_lists_are_cut_in_parameters_only(store):
    ids = [f"{i:032x}" for i in range(400)]
    settings = CompareParams(name="demo", score_run_ids=ids)
    run = tracking.stored(complete_run("compare", settings, params={"images": ids}))
    assert run.params["images"].endswith("(see parameters.yaml)") and "score_run_ids" not in run.params
    assert yaml.safe_load(run.file("parameters.yaml").read_text())["score_run_ids"][399].endswith("18f")


# -- other runs


def test_fetch_copies_and_says_what_there_is_instead(store):
    run = tracking.stored(complete_run())
    run.file("parameters.yaml").write_text("spoilt")
    assert run.file("parameters.yaml").read_text() != "spoilt"
    message = f"run {run.run_id} .*no artifact 'maps.npz'.*environment.json, parameters.yaml"
    with pytest.raises(InputError, match=message):
        run.file("maps.npz")
    with pytest.raises(InputError, match="no run 'nonsense'"):
        tracking.stored("nonsense")


def test_folders_of_the_same_last_name_are_kept_apart(store):
    run_id = complete_run()
    for name in ("maps", "variants"):
        tracking.log_text(run_id, name, f"{name}/x/a.txt")
    paths = [tracking.stored(run_id).file(f"{name}/x") for name in ("maps", "variants")]
    assert [(path / "a.txt").read_text() for path in paths] == ["maps", "variants"]


def test_a_run_has_an_address_and_versions(store):
    run_id = complete_run()
    assert re.fullmatch(rf"http://127.0.0.1:5000/#/experiments/\d+/runs/{run_id}", tracking.run_url(run_id))
    assert tracking.stored(run_id).versions(["numpy", "nonsense"]) == {"numpy": np.__version__}


def test_take_gives_the_run_that_is_named_or_the_latest_that_fits(store):
    first, second = (complete_run(settings=TrainParams(name="demo", seed=seed)) for seed in (1, 2))
    failed = complete_run(settings=TrainParams(name="demo", seed=1))
    tracking.end_run(failed, "FAILED")

    def take(**settings):
        return tracking.take("train", AttributeParams(**{"name": "demo", **settings})).run_id

    assert take() == take(seed=[1, 2]) == take(train_run_id=second) == second
    assert take(seed=1, architecture="CompactResNetV2") == take(train_run_id=first, seed=1) == first
    for settings, message in (
        ({"seed": 9}, "no finished train run in the experiment 'demo', seed 9: run 1_train.ipynb first"),
        ({"name": "other"}, "no finished train run in the experiment 'other': run 1_train"),
        ({"train_run_id": failed}, f"train_run_id: run {failed} .* is a FAILED train run: name a finished train"),
        ({"train_run_id": first, "seed": [2, 3]}, f"train_run_id: run {first} .* is of seed 1, not 2 or 3: name"),
    ):
        with pytest.raises(InputError, match=message):
            take(**settings)


def test_runs_of_an_earlier_version_are_told_and_not_mixed_in(store):
    old = complete_run()
    mlflow.MlflowClient().delete_tag(old, "cxr.schema")
    assert tracking.find(experiment="demo", complete=False) == [] and tracking.experiments_with("train") == []
    assert (tracking.count_earlier("demo"), tracking.count_earlier("no such experiment")) == (1, 0)
    new = complete_run()
    assert [run.run_id for run in tracking.find(experiment="demo")] == [new]
    assert tracking.experiments_with("train") == ["demo"]
    for read in (tracking.stored, tracking.upstream, lambda run_id: tracking.upstream(new, run_id)):
        with pytest.raises(
            InputError, match=rf"^run {old} \(train\) was made by an earlier version of cxr, .* notebook again"
        ):
            read(old)
    tracking.set_tags(old, {"cxr.schema": "1"})
    assert tracking.count_earlier("demo") == 1
    assert [run.run_id for run in tracking.find(experiment="demo")] == [new]
    mlflow.MlflowClient().delete_run(old)
    assert tracking.count_earlier("demo") == 0


def test_find(store):
    train = complete_run()
    score = complete_run("score", ScoreParams(name="demo"), inputs=tracking.upstream(train))
    assert [run.run_id for run in tracking.find(experiment="demo")] == [score, train]
    (found,) = tracking.find("score", experiment="demo", fingerprint=tracking.stored(score).fingerprint)
    assert found == tracking.stored(score)
    tracking.set_tags(score, {"cxr.edited": "true"})
    assert tracking.find("score", experiment="demo", fingerprint=found.fingerprint) == []
    assert len(tracking.find("score", experiment="demo")) == 1


def test_upstream(store):
    one, two = (complete_run(settings=TrainParams(name="demo", seed=seed)) for seed in (1, 2))
    other = complete_run("score", ScoreParams(name="demo"))
    assert tracking.upstream(one) == {"train": one}
    assert tracking.upstream(one, two) == tracking.upstream(two, one) != tracking.upstream(one)
    with pytest.raises(InputError, match="is a score run, and others are train"):
        tracking.upstream(one, other)
    tracking.end_run(two, "KILLED")
    with pytest.raises(InputError, match=f"{two} .* is KILLED and not complete"):
        tracking.upstream(one, two)


# -- fingerprints


def test_fingerprint_is_of_what_matters(notebooks, tmp_path):
    def of(stage="train", model=TrainParams, inputs=INPUTS, **values):
        return tracking.fingerprint(stage, model(**values), inputs)

    base = of()
    assert len(base) == 64 and of() == base
    assert of(name="other") == base
    changes = [{"seed": 1}, {"image_size": 96}, {"phantom_images": 900}, {"weights": "none"}, {"placebo": True}]
    for change in changes:
        assert of(**change) != base
    assert of(inputs={"manifest": "abd"}) != base
    assert of("pretrain") != base
    # where the images are is told by the manifest, and they are no phantom's
    assert of(data="here") == of(data="there") == of(data="there", phantom_images=900)
    attribute = of("attribute", AttributeParams)
    assert of("attribute", AttributeParams, train_run_id="ab", data="x") == attribute
    assert of("attribute", AttributeParams, method=["layercam"]) != attribute


def test_fingerprint_of_weights_is_of_their_contents(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr.data.cache.default_cache", lambda: tmp_path / "cache")

    def of(weights):
        return tracking.fingerprint("train", TrainParams(weights=str(weights)), INPUTS)

    one, two, three = tmp_path / "one.npz", tmp_path / "two.npz", tmp_path / "three.npz"
    for path, content in ((one, b"same"), (two, b"same"), (three, b"other")):
        path.write_bytes(content)
    assert of(one) == of(two) != of(three)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.npz").write_bytes(b"same")
    (tmp_path / "folder" / "readme.txt").write_bytes(b"any")
    assert of(tmp_path / "folder") == of(one)
    shipped = of("source")
    cached = tmp_path / "cache" / "weights" / "CompactResNetV2.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"own")
    assert of("source") != shipped


# -- kernels


START = """from cxr import tracking
from cxr.core.params import TrainParams
settings = TrainParams.from_notebook(globals())
run = tracking.start("train", settings, name="by hand", inputs={"manifest": "abc"})"""


@pytest.mark.slow
def test_an_error_in_a_notebook_run_by_hand_leaves_a_failed_run_with_its_notebook(store, notebooks, tmp_path):
    path = write_notebook(notebooks / "1_train.ipynb", START, "1 / 0", "run.finish()")
    words = [sys.executable, "-m", "papermill", path, tmp_path / "out.ipynb", "-k", "python3", "-p", "seed", "4"]
    assert subprocess.run(words, capture_output=True, timeout=100).returncode == 1
    (run,) = tracking.find("train", experiment="demo", complete=False)
    assert run.status == "FAILED" and not run.complete and run.params["seed"] == "4"
    assert "ZeroDivisionError" in run.file("notebook.ipynb").read_text(encoding="utf-8")


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """IPython in this process: runs cells, and remembers them as a kernel does."""
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))

    def run(*cells: str) -> None:
        shell = InteractiveShell.instance(user_module=types.ModuleType("cells"))
        for cell in cells:
            shell.run_cell(cell, store_history=True).raise_error()
        InteractiveShell.clear_instance()

    return run


def test_cells_that_the_file_does_not_hold_mark_a_run_as_edited(store, notebooks, shell):
    cells = ["%config Completer.use_jedi = False", START, "run.finish()"]
    write_notebook(notebooks / "1_train.ipynb", *cells)
    parameters = "# Parameters\nname = 'demo'\nseed = 4"
    shell(parameters, "# words\n%config Completer.use_jedi = False", *cells[1:])
    shell(parameters, *cells[:2], "settings = None", cells[2])
    edited, plain = tracking.find("train", experiment="demo")
    assert edited.tags["cxr.edited"] == "true" and "cxr.edited" not in plain.tags
    assert tracking.find("train", experiment="demo", fingerprint=edited.fingerprint) == [plain]


# -- what the UI shows


def describing_run() -> tracking.Run:
    return tracking.start("train", TrainParams(name="demo"), name="train", inputs=INPUTS)


def test_a_description_has_its_figure_and_a_person_s_own_is_left_alone(store):
    run = describing_run()
    run_id = run.run_id
    figure = matplotlib.figure.Figure(figsize=(9, 3))
    figure.subplots().plot([0, 1])
    run.describe("Some words.", figure=figure)
    assert tracking.stored(run_id).tags["mlflow.note.content"].startswith("Some words.\n\n![overview.png](get-art")
    from PIL import Image

    assert 500 < Image.open(tracking.stored(run_id).file("overview.png")).width <= 800
    run.describe("Other words.")
    assert tracking.stored(run_id).tags["mlflow.note.content"] == "Other words."
    tracking.set_tags(run_id, {"mlflow.note.content": "By hand."})
    run.describe("Third words.")
    assert tracking.stored(run_id).tags["mlflow.note.content"] == "By hand."


def test_the_description_of_a_run_with_an_answer_begins_with_it(store):
    run = describing_run()
    run.tags({"cxr.answer": "It moved.", "cxr.synthetic": "yes"})
    run.describe("Some words.")
    assert tracking.stored(run.run_id).tags["mlflow.note.content"] == (
        "**SYNTHETIC DATA.** It moved.\n\nSome words."
    )


def test_a_run_that_ends_has_its_numbers_as_people_read_them(store):
    run = describing_run()
    run.metrics({"auc_macro_before": 0.94713, "auc_macro_after": 0.95861})
    run.finish()
    found = tracking.stored(run.run_id)
    assert (found.tags["AUC before"], found.tags["AUC after"]) == ("0.95", "0.96")
    assert found.metrics["auc_macro_after"] == 0.95861


def test_an_experiment_has_views_and_a_description(store):
    describing_run()
    tracking.describe_experiment("demo", "What it is.", methods=["layercam"], classes=["a class"])
    tags = mlflow.get_experiment_by_name("demo").tags
    assert tags["mlflow.note.content"] == "What it is."
    assert {key for key in tags if key.startswith("mlflow.sharedViewState.cxr-")} >= {
        "mlflow.sharedViewState.cxr-scores",
        "mlflow.sharedViewState.cxr-maps",
    }
    assert tracking.front_page("http://here").startswith("http://here/#/experiments/")


def test_data_sets_are_entities_of_the_runs_that_use_them(store):
    run = describing_run()
    run_id = run.run_id
    counts = {"train": {"x": 3, "y": 1}, "test": {"x": 2}}
    tracking.log_dataset("mine", "a" * 64, source="/data/mine", columns=["path", "label"], counts=counts)
    run.finish()
    found = mlflow.get_run(run_id).inputs.dataset_inputs
    roles = {item.tags[0].value: item.dataset for item in found}
    assert roles["training"].name == "mine" and roles["evaluation"].name == "mine, test split"
    assert roles["training"].digest == "a" * 12
    assert json.loads(roles["training"].profile)["num_rows"] == 4
    assert json.loads(roles["evaluation"].profile)["num_rows"] == 2
    later = tracking.start("attribute", AttributeParams(name="demo"), name="a", inputs={}).run_id
    tracking.log_dataset_of(run_id)
    tracking.log_dataset_of(complete_run_without_data())  # of an older version
    (own,) = mlflow.get_run(later).inputs.dataset_inputs
    assert own.dataset.name == "mine, test split"


def complete_run_without_data() -> str:
    return tracking.create_run(experiment="demo", name="old", tags={}, params={})


def log_models(seed: int = 0) -> tracking.Run:
    run = describing_run()
    run.text("weights", "checkpoints/after.keras")
    params = {"architecture": "A/B", "seed": seed}
    tracking.log_model(
        "after", params=params, metrics={"auc_macro": 0.9, "ece": math.nan}, sha256="b", loadable=True
    )
    tracking.register(architecture="A/B", seed=seed, weights="none", data="phantom")
    return run


def test_a_fine_tuned_model_is_registered_once_with_its_drift(store, capsys):
    client = mlflow.MlflowClient()
    run = log_models()
    run_id = run.run_id
    tracking.register(architecture="A/B", seed=0, weights="none", data="phantom")
    run.finish()
    tracking.tag_model(run_id, {"layercam.overlap_median": 0.51239, "layercam.overlap_corrected_median": math.nan})
    (version,) = client.search_model_versions("name = 'demo.A_B'")
    assert version.run_id == run_id and version.source == f"runs:/{run_id}/checkpoints"
    assert (
        version.tags["layercam.overlap_median"] == "0.5124"
        and "layercam.overlap_corrected_median" not in version.tags
    )
    assert client.get_model_version_by_alias("demo.A_B", "s0").version == version.version
    (model,) = client.search_logged_models([tracking.experiment_id("demo")])
    assert model.source_run_id == run_id and model.tags["cxr.checkpoint"].endswith("/checkpoints/after.keras")
    assert {metric.key: metric.value for metric in model.metrics} == {"model/auc_macro": 0.9}
    assert json.loads(model.tags["mlflow.modelVersions"])[0]["name"] == "demo.A_B"
    made = yaml.safe_load(tracking.stored(run_id).file("checkpoints/MLmodel").read_text())
    assert made["flavors"]["keras"]["data"] == "after"
    second = log_models()
    second.finish()
    assert client.get_model_version_by_alias("demo.A_B", "s0").run_id == second.run_id
    assert capsys.readouterr().out.count("registered: models:/demo.A_B/") == 2


def test_a_store_without_a_registry_is_no_error(store, monkeypatch, capsys):
    def refuse(*_, **__):
        raise MlflowException("PERMISSION_DENIED: not you")

    monkeypatch.setattr(mlflow.MlflowClient, "create_registered_model", refuse)
    run = log_models()
    run_id = run.run_id
    run.finish()
    assert tracking.stored(run_id).complete
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "not registered as a model, which nothing depends on: PERMISSION_DENIED: not you"
    assert said[1:] == [f"train run {run_id}: 2_attribute takes it as train_run_id"]
    tracking.tag_model(run_id, {"layercam.overlap_median": 0.5})  # there is none
