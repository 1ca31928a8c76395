"""`cxr drift` as its users have it: exit codes, files, the MLflow run."""

import html
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import pandas as pd
import psutil
import pytest
from commands import cxr, papermill
from conftest import PROJECT
from foreign_models import cnn, train_cnn, write_phantom

from cxr import tracking
from cxr.cli import main
from cxr.metrics.metric_table import METRICS

BIN = Path(sys.executable).parent
PAIR = ("cnn_s0_epoch2.keras", "cnn_s0_epoch4.keras", "phantom/manifest.csv")
QUICK = ("--n-boot", "100", "--draws", "1")


def drift(folder, *words, code=0):
    return cxr("drift", *words, store=folder, folder=folder, code=code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, new_store):
    """Phantom images as PNG files with a manifest; a plain CNN after two epochs and after four, of two seeds."""
    folder = tmp_path_factory.mktemp("drift")
    new_store(folder)
    write_phantom(folder / "phantom", 80)
    for seed in (0, 1):
        train_cnn(folder / "phantom" / "manifest.csv", folder, seed, side=48, epochs=(2, 4))
    return folder


@pytest.fixture
def store(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    tracking.connect()
    return folder


# ------------------------------------------------------------------------------------------------- before anything


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two models and four images, in which nothing is to be computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in "ab":
        cnn(32, 2).save(f"{name}.keras")
    Path("images").mkdir()
    for name in ("x/1.png", "x/2.png", "y/3.png"):
        path = Path("images", name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.keras c.keras images", "model B: c.keras does not exist"),
        ("a.keras b.keras pictures", "pictures does not exist"),
        ("--like-a images", "model A2: images is a folder"),
        ("--out drift.xlsx", "--out drift.xlsx: its name has to end in .parquet"),
        ("--figure drift.gif", "--figure drift.gif: its name has to end in .png"),
        ("--method layercam,cam", "method.1: "),
        ("--method layercam,layercam", "method: list every entry once"),
        ("--gate overlap_median", "gate 'overlap_median': expected METRIC>=NUMBER"),
        ("--gate overlap>=0.5", "no metric 'overlap' is measured here: use "),
        ("--gate auc_macro_b>=0.5", "use auc_macro_before, auc_macro_after"),
        ("--labels none --gate auc_macro_before>0", "no metric 'auc_macro_before' is measured"),
        ("--gate overlap_two_heads_median>0", "no metric 'overlap_two_heads_median'"),
        ("--classes x", "images are labelled y, and the classes are x"),
        ("--set architecture=x", "unknown parameter 'architecture'"),
        ("--set path_colum=x", "unknown parameter 'path_colum': did you mean 'path_column'"),
        ("--set epochs=3", "unknown parameter 'epochs': the notebook's parameters cell lists all"),
        ("--tracking-uri http://127.0.0.1:9", "no MLflow server answers"),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(here, words, message, capsys):
    usual = "" if words.startswith("a.keras") else "a.keras b.keras images "
    assert main.main(["drift", *f"{usual}{words}".split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1, captured.err
    assert captured.out == "" and not (here / "mlflow.db").exists() and not list(here.glob("*.ipynb"))


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["drift", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--gate 'overlap_median>=0.5'" in text and "usage: cxr drift" in text


# ---------------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
def test_a_plain_cnn_with_labels_levels_and_gates(folder, store):
    words = [*PAIR, "--layer", "last", *QUICK, "--method", "layercam,gradcampp"]
    words += ["--like-a", "cnn_s1_epoch2.keras", "--like-b", "cnn_s1_epoch4.keras"]
    words += ["--images", "all", "--out", "there/drift.csv", "--figure", "there/figure.pdf"]
    gates = {
        "overlap_median>=0": "passed",
        "gradcampp/overlap_median>1": "FAILED",
        "auc_macro_before<=1": "passed",
    }
    done = drift(folder, *words, *(word for gate in gates for word in ("--gate", gate)), code=1)
    said = [line.split(",")[0] for line in done.stdout.splitlines() if line.startswith("gate ")]
    assert said == [f"gate {gate}: {result}" for gate, result in gates.items()]
    assert "» maps of B2: image 80/80" in done.stderr and "»" not in done.stdout
    for text in ("explained at last (12x12)", "two seeds  two seeds", "on 80 of 80 images (", "there/drift.html"):
        assert text in done.stdout, done.stdout
    long = [line for line in done.stdout.splitlines() if len(line) > 100]
    assert all("cxr ui --tracking-uri" in line for line in long)  # a command to copy is not wrapped
    assert "TF_ENABLE_ONEDNN" not in done.stderr and "absl" not in done.stderr

    (info,) = tracking.find("drift", experiment="drift")
    assert f"runs/{info.run_id}" in done.stdout
    table = pd.read_csv(folder / "there" / "drift.csv")
    logged = info.table("drift.parquet")
    overlap = pytest.approx(logged["overlap"].tolist(), nan_ok=True)  # two maps by Grad-CAM++ are empty
    assert len(table) == 160 and table["overlap"].tolist() == overlap
    first = logged[logged["method"] == "layercam"]
    assert info.metrics["overlap_median"] == pytest.approx(first["overlap"].median())
    assert info.metrics["overlap_two_seeds_median"] == pytest.approx(first["overlap_two_seeds"].median())
    second = logged[logged["method"] == "gradcampp"]
    assert info.metrics["gradcampp/overlap_median"] == pytest.approx(second["overlap"].median())
    assert info.tags["cxr.gate.1"].startswith("gate overlap_median>=0: passed, measured ")
    assert info.tags["cxr.gate.2"].startswith("gate gradcampp/overlap_median>1: FAILED")
    assert (folder / "there" / "figure.pdf").read_bytes().startswith(b"%PDF")
    held = {"drift.png", "drift.pdf", "drift_by_class_layercam.png", "manifest.csv", "images.parquet"}
    held |= {
        "answer.txt",
        "report.html",
        "map_checks.csv",
        "gates.json",
        "notebook.ipynb",
        "parameters.yaml",
        "summary.txt",
    }
    assert held <= set(info.artifacts())
    page = (folder / "there" / "drift.html").read_text(encoding="utf-8")
    for sentence in info.file("answer.txt").read_text().splitlines():
        assert html.escape(sentence) in page
        assert sentence.split(": ")[0][:60] in " ".join(done.stdout.split())
    assert info.tags["cxr.answer"].startswith(info.file("answer.txt").read_text()[:60])
    assert info.tags["cxr.synthetic"] == "no"  # the files do not say that a program drew them
    assert info.metrics["passes_checks"] == info.table("map_checks.csv")["passes_checks"][[0, 2]].all()
    notebook = info.json("notebook.ipynb")
    assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert info.params["checkpoint_sha256_before"] != info.params["checkpoint_sha256_after"]
    assert info.params["layer"] == "last" and info.params["grid"] == "12x12"

    from cxr.core.params import DriftParams
    from cxr.pair import compare, images

    settings = DriftParams(
        data=str(folder / "phantom" / "manifest.csv"), like_a=["x"], like_b=["y"], method=["layercam", "gradcampp"]
    )
    known = set(compare.metric_names(settings, images.find(settings)[0]))
    undefined = set(filter(None, info.tags.get("cxr.undefined", "").split(",")))
    assert known == (set(info.metrics) | undefined) - {"peak_memory_mib"}


@pytest.mark.slow
def test_without_labels_by_hand_through_papermill(folder, store, tmp_path):
    keras.models.load_model(folder / "cnn_s0_epoch2.keras").save(tmp_path / "a.h5")
    parameters = {"model_a": tmp_path / "a.h5", "model_b": folder / "cnn_s0_epoch2.keras", "name": "hand"}
    parameters |= {"data": folder / "phantom", "image_labels": "none", "target_layer": "last", "n_boot": 100}
    words = [word for key, value in parameters.items() for word in ("-p", key, value)]
    (folder / "phantom" / "manifest.csv").rename(folder / "phantom.csv")  # what is left is a folder of images
    try:
        notebook = PROJECT / "notebooks" / "5_drift.ipynb"
        papermill(notebook, tmp_path / "5.ipynb", *words, store=folder, folder=folder)
    finally:
        (folder / "phantom.csv").rename(folder / "phantom" / "manifest.csv")
    (info,) = tracking.find("drift", experiment="hand")
    table = info.table("drift.parquet")
    assert len(table) == 80 and "label" not in table and (table["overlap"] == 1).all()
    assert (table["explained"] == table["predicted_after"]).all() and set(table["explained"]) <= set("01234")
    said = info.file("summary.txt").read_text()
    assert "A and B have the same weights" in said and "each treated as a separate patient" in said
    assert "another seed alone may move it" in said and "--like-a, --like-b" in said
    assert not [name for name in info.metrics if name.startswith(("auc", "accuracy"))]


@pytest.mark.slow
def test_what_only_the_models_show_ends_with_2_too(folder, store):
    done = drift(folder, *PAIR, "--layer", "lost", "--name", "bad", *QUICK, code=2)
    error = [line for line in done.stderr.splitlines() if not line.startswith("»")]
    assert len(error) == 1 and "model A (cnn_s0_epoch2.keras): target_layer: " in error[0] and done.stdout == ""
    (info,) = tracking.find("drift", experiment="bad", complete=False)
    assert info.status == "FAILED" and "no layer 'lost'" in info.tags["cxr.error"]
    assert {"notebook.ipynb", "log.txt"} <= set(info.artifacts())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_notebook_and_the_run(folder, store):
    environment = {**os.environ, "CXR_CACHE": f"{folder}/cache", "PYTHONPATH": str(PROJECT)}
    words = [str(BIN / "cxr"), "drift", *PAIR, "--layer", "last", "--name", "c"]
    # where tests run in the background, Ctrl-C may be switched off, and children would inherit that
    options = {"stderr": subprocess.PIPE, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(words, cwd=folder, env=environment, text=True, **options) as process:
        assert process.stderr.readline().startswith("» model A: loading")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    (info,) = tracking.find("drift", experiment="c", complete=False)
    assert info.status == "KILLED"
    assert len(family) >= 2, "papermill and its kernel"
    assert psutil.wait_procs(family, timeout=20)[1] == [], "a kernel is left behind"


def test_the_document_leads_to_the_page_that_names_all_metrics():
    assert "(metrics.md" in (PROJECT / "docs" / "drift.md").read_text(encoding="utf-8")
    text = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in text] == []
