"""What is read back is what was logged: files, maps, predictions."""

import json
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest

from cxr import tracking
from cxr.attribution import maps
from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.tracking import artifacts


@pytest.fixture(scope="module")
def finished(tmp_path_factory, new_store):
    """A complete train run with files of every kind, and the folder of its artifacts."""
    folder = tmp_path_factory.mktemp("integrity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        uri = tracking.connect(new_store(folder))
        run = tracking.start("train", TrainParams(name="demo"), name="train x", inputs={"manifest": "abc"})
        for name in ("before", "after"):
            (folder / f"{name}.keras").write_bytes(name.encode())
            run.file(folder / f"{name}.keras", "checkpoints")
        run.table(pd.DataFrame({"a": [1]}), "tables/t.csv", show=False)
        run.image(np.zeros((4, 4), np.uint8), key="x")
        tracking.log_file_as(run.run_id, folder / "before.keras", "copy.keras")
        run.finish()
        yield run.run_id, folder / "artifacts" / "demo" / run.run_id / "artifacts", uri


@pytest.fixture
def files(finished, monkeypatch):
    """The run's id and its artifacts, which are put right after the test."""
    run_id, root, uri = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tracking.connect(uri)
    forget(run_id)
    saved = root.with_name("saved")
    shutil.copytree(root, saved)
    yield run_id, root
    shutil.rmtree(root)
    saved.rename(root)


def test_a_run_holds_the_hash_of_every_file_that_it_logged(files):
    run_id, root = files
    logged = json.loads((root / "sha256.json").read_text())
    assert set(logged) == {
        *("parameters.yaml", "environment.json", "checkpoints/before.keras", "checkpoints/after.keras"),
        *("tables/t.csv", "copy.keras"),
    }
    assert logged["checkpoints/before.keras"] == tracking.sha256("before") == logged["copy.keras"]
    text = (root / "sha256.json").read_text()
    assert tracking.stored(run_id).tags["cxr.artifacts_sha256"] == tracking.sha256(text)
    assert (tracking.stored(run_id).file("checkpoints") / "after.keras").read_bytes() == b"after"
    assert tracking.stored(run_id).table("tables/t.csv")["a"].tolist() == [1]


def change(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fetched", ["checkpoints/before.keras", "checkpoints"])
def test_a_changed_file_is_refused_alone_and_in_its_folder(files, fetched):
    run_id, root = files
    change(root / "checkpoints" / "before.keras")
    message = (
        rf"run {run_id} \(train x\): artifact 'checkpoints/before.keras' is not the file that the run logged "
    )
    with pytest.raises(InputError, match=message + r"\(sha256 .* instead of .*run 1_train again"):
        tracking.stored(run_id).file(fetched)
    tracking.stored(run_id).file("parameters.yaml")


def test_a_file_that_was_taken_away_from_a_folder_or_added_to_it_is_noticed(files):
    run_id, root = files
    (root / "checkpoints" / "epoch_001.keras").write_bytes(b"x")
    with pytest.raises(InputError, match="'checkpoints/epoch_001.keras' was not logged by the run"):
        tracking.stored(run_id).file("checkpoints")
    (root / "checkpoints" / "epoch_001.keras").unlink()
    tracking.scratch.cache_clear()
    (root / "checkpoints" / "after.keras").unlink()
    with pytest.raises(InputError, match="'checkpoints/after.keras', which the run logged, is missing"):
        tracking.stored(run_id).file("checkpoints")


def test_the_table_of_hashes_itself_is_known_again(files):
    run_id, root = files
    change(root / "checkpoints" / "before.keras")
    logged = json.loads((root / "sha256.json").read_text())
    logged["checkpoints/before.keras"] = tracking.contents(root / "checkpoints" / "before.keras")
    (root / "sha256.json").write_text(json.dumps(logged))
    with pytest.raises(InputError, match="'sha256.json' is not the file that the run logged"):
        tracking.stored(run_id).file("checkpoints")
    tracking.scratch.cache_clear()
    (root / "sha256.json").unlink()
    with pytest.raises(InputError, match="has no artifact 'sha256.json'"):
        tracking.stored(run_id).file("checkpoints")


def test_what_is_logged_after_the_end_has_its_hash_too(files, tmp_path):
    run_id, root = files
    (tmp_path / "n").write_text("{}")
    tracking.log_file_as(run_id, tmp_path / "n", "notebook.ipynb")
    tracking.log_text(run_id, "<p>yes</p>", "pages/report.html")
    forget(run_id)
    assert tracking.stored(run_id).file("notebook.ipynb").read_text() == "{}"
    assert tracking.stored(run_id).file("pages/report.html").read_text() == "<p>yes</p>"
    (root / "pages" / "report.html").write_text("<p>no</p>")
    change(root / "notebook.ipynb")
    for name in ("pages/report.html", "pages", "notebook.ipynb"):
        forget(run_id)
        with pytest.raises(InputError, match=f"artifact '{name[:5]}.*is not the file that the run logged"):
            tracking.stored(run_id).file(name)


def test_a_file_that_nobody_logged_is_refused(files):
    run_id, root = files
    forget(run_id)
    (root / "report.html").write_text("forged")
    (root / "more").mkdir()
    (root / "more" / "x.csv").write_text("a\n1\n")
    for name in ("report.html", "more/x.csv", "more"):
        with pytest.raises(InputError, match="was not logged by the run: remove it"):
            tracking.stored(run_id).file(name)
    assert len(list(tracking.stored(run_id).file("images").iterdir())) == 2, "MLflow's own"


def test_a_study_s_own_files_have_their_hash(files):
    study = tracking.create_run(experiment="demo", name="s", tags={"cxr.stage": "study"}, params={})
    tracking.log_text(study, "{}", "steps.json")
    forget(study)
    assert tracking.stored(study).json("steps.json") == {}
    (files[1].parents[1] / study / "artifacts" / "steps.json").write_text('{"train": "x"}')
    with pytest.raises(InputError, match="'steps.json' is not the file that the run logged"):
        tracking.stored(study).json("steps.json")


def test_runs_of_older_versions_are_read_as_they_are(files):
    run_id, root = files
    change(root / "checkpoints" / "before.keras")
    (root / "report.html").write_text("of an older version")
    tags = {key: tracking.stored(run_id).tags[key] for key in ("cxr.artifacts_sha256", "cxr.hashes")}
    for key in tags:
        mlflow.MlflowClient().delete_tag(run_id, key)
    forget(run_id)
    try:
        for name in ("checkpoints", "report.html"):
            tracking.stored(run_id).file(name)
    finally:
        tracking.set_tags(run_id, tags)


def forget(run_id):
    """As another process: what this one has logged and fetched is not known."""
    artifacts.logged_hashes.cache_clear()
    tracking.scratch.cache_clear()


# -- maps of the wrong model


def map_set(**values) -> maps.MapSet:
    given = {
        "image_id": np.array(["a", "b"]),
        "class_index": np.array([0, 1]),
        "maps": np.ones((2, 3, 3), np.float32),
        "checkpoint": "before",
        "method": "layercam",
        "layer": "l",
        "classes": ("x", "y"),
        "checkpoint_sha256": "f" * 64,
    }
    return maps.MapSet(**{**given, **values})


IMAGES = pd.DataFrame({"image_id": ["b", "a"], "explained": ["y", "x"]})
WANTED = {"checkpoint": "before", "method": "layercam", "checkpoint_sha256": "f" * 64}


def test_maps_that_are_what_they_are_taken_for_pass(tmp_path):
    map_set().save(tmp_path / "x.npz")
    assert maps.verify(maps.load(tmp_path / "x.npz"), IMAGES, **WANTED).checkpoint == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"checkpoint_sha256": "0" * 64}, "made from another checkpoint .*run 2_attribute again"),
        ({"checkpoint": "after"}, "holds maps of checkpoint 'after'"),
        ({"method": "gradcam"}, "holds maps of method 'gradcam'"),
        ({"image_id": np.array(["a", "c"])}, "2 images are only in it or only in images.parquet, such as b"),
        ({"class_index": np.array([0, 0])}, "1 images are explained for another class .* such as b"),
        ({"classes": ("y", "x")}, "2 images are explained for another class"),
    ],
)
def test_maps_of_another_model_method_or_images_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        maps.verify(map_set(**values), IMAGES, **WANTED)


def test_a_model_that_says_something_else_than_it_said_is_refused():
    logged = pd.DataFrame({"image_id": ["a", "b", "c"], "p_0": [0.1, 0.5, 0.9], "p_1": [0.9, 0.5, 0.1]})
    said = np.array([[0.9, 0.1], [0.1003, 0.8997]])
    maps.verify_predictions(logged, np.array(["c", "a"]), said, where="run r (train), transfer")
    for wrong in (said + [[0, 0], [0.02, -0.02]], said + np.nan):
        with pytest.raises(
            InputError, match=r"run r \(train\), transfer: the model does not say .* run 1_train again"
        ):
            maps.verify_predictions(logged, np.array(["c", "a"]), wrong, where="run r (train), transfer")
    with pytest.raises(InputError, match="has 3 classes"):
        maps.verify_predictions(logged, np.array(["c"]), np.ones((1, 3)) / 3, where="x")
    with pytest.raises(InputError, match="such as z"):
        maps.verify_predictions(logged, np.array(["z"]), said[:1], where="x")
