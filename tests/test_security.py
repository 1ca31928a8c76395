"""Names from data may hold anything, and files from elsewhere may be hostile."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from cxr import tracking
from cxr.attribution import maps
from cxr.cli import main, ui
from cxr.core import tables
from cxr.core.errors import InputError
from cxr.core.params import StudyParams, TrainParams
from cxr.study import report_page
from cxr.tracking import connection

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ["<script>alert(1)</script>", "../../x", "a/b", "'; drop table runs; --", '" onload="x', "{{7*7}}"]
SOURCES = [*sorted((PROJECT / "cxr").rglob("*.py")), *sorted((PROJECT / "notebooks").glob("*.ipynb"))]


def test_tables_of_the_report_escape_every_name():
    table = pd.DataFrame({"class": NAMES, "run": ["<b>"] * len(NAMES)})
    table[NAMES[0]] = 1
    page = tables.html(table, links={"run": lambda key: f'http://x/"{key}'})
    assert "<script" not in page and "<b>" not in page and 'onload="' not in page
    assert page.count("&lt;script&gt;") == 2 and 'href="http://x/&quot;&lt;b&gt;"' in page


def test_the_report_lets_no_markup_of_names_through(tmp_path):
    output = nbformat.v4.new_output
    text = f"Study `{NAMES[0]}` of {NAMES[0]} and <img src=x onerror=alert(2)>"
    frame = pd.DataFrame({NAMES[0]: [NAMES[0]]}, index=[NAMES[0]])
    outputs = [
        output("display_data", data={"text/markdown": text}),
        output("display_data", data={"text/html": frame._repr_html_()}),
        output("stream", name="stdout", text=NAMES[0]),
    ]
    cells = [nbformat.v4.new_code_cell("x", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    report_page.export(tmp_path / "n.ipynb", tmp_path / "n.html")
    page = (tmp_path / "n.html").read_text(encoding="utf-8")
    assert "alert(1)" in page  # it is there, as text
    assert "<script>alert" not in page and "<img src=x" not in page


@pytest.mark.parametrize("name", NAMES)
def test_names_as_keys_of_metrics_and_images(name):
    key = connection.key_of(f"auc_{name}")
    assert re.fullmatch(r"[A-Za-z0-9_\-. /]+", key) and ".." not in key.split("/") and not key.startswith("/")


@pytest.fixture(scope="module")
def store(tmp_path_factory, new_store):
    folder = tmp_path_factory.mktemp("security")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        tracking.connect(new_store(folder))
        yield folder


def test_nothing_leads_out_of_a_run_and_odd_names_are_kept(store):
    run = tracking.start(
        "train", TrainParams(name="demo"), name="'; drop", inputs={"manifest": "a"}, params={"c": NAMES}
    )
    for name in ("../x.csv", "a/../../x.csv", "/tmp/x.csv", "a\\..\\x.csv", "a//x.csv"):
        with pytest.raises(InputError, match="not a plain path within the run"):
            run.table(pd.DataFrame({"a": [1]}), name, show=False)
    with pytest.raises(InputError, match="not a plain path within the run"):
        tracking.stored(run.run_id).file("../../../mlflow.db")
    table = pd.DataFrame({"label": NAMES, "patient_id": ['O\'Brien "x"'] * len(NAMES)})
    run.table(table, "t.parquet", show=False)
    for name in NAMES:
        run.metrics({f"auc_{name}": 0.5})
        run.image(np.zeros((4, 4), np.uint8), key=f"layercam/{name}")
    run.finish()
    found = tracking.stored(run.run_id)
    assert found.table("t.parquet").equals(table)
    assert found.params["c"] == ", ".join(NAMES)
    outside = [path for path in store.iterdir() if path.name not in ("artifacts", "mlflow.db")]
    assert outside == [] and [path.name for path in (store / "artifacts").iterdir()] == ["demo"]


@pytest.mark.parametrize("option", ["stage", "fingerprint", "parent"])
def test_filters_take_no_quotes(store, option):
    with pytest.raises(InputError, match="not a stage, fingerprint or run id"):
        tracking.find(experiment="demo", **{option: "x' or tags.`a` != 'y"})


@pytest.mark.parametrize("name", ["../../x", "a/b", "x'; --", "<script>", ""])
def test_a_study_s_name_is_a_name(name):
    with pytest.raises(InputError, match="name"):
        StudyParams.check({"name": name}, where="study.yaml")


UNSAFE = re.compile(
    r"yaml\.(unsafe_|full_)?load\(|\bpickle\.(loads?|Unpickler)|read_pickle|joblib\.load|os\.system"
)


def test_no_shell_no_pickle_no_unsafe_yaml_and_models_in_safe_mode():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            where = f"{path.name}: {line.strip()}"
            if "np.load(" in line:
                assert "allow_pickle=False" in line or "mmap_mode" in line, where
            if "load_model(" in line:
                assert "safe_mode=True" in line and "compile=False" in line, where
            assert not UNSAFE.search(line), where
            assert "shell=True" not in line and "allow_pickle=True" not in line, where


def test_a_map_set_with_a_pickle_is_refused(tmp_path):
    values = {"image_id": np.array([print], object), "class_index": np.zeros(1, int), "maps": np.zeros((1, 2, 2))}
    np.savez(tmp_path / "x.npz", meta=np.array('{"classes": []}'), **values)
    with pytest.raises(InputError, match="not a set of attribution maps .*[Oo]bject arrays"):
        maps.load(tmp_path / "x.npz")


@pytest.mark.slow
def test_weights_with_code_inside_are_refused(tmp_path):
    keras = pytest.importorskip("keras")
    from cxr.models import build, weights

    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x + 1)])
    network.save(tmp_path / "x.keras")
    model = build.build("CompactDenseNet", n_classes=2, image_size=32)
    with pytest.raises(InputError, match=r"x\.keras.*(unsafe|lambda|Lambda)"):
        weights.load_backbone(model, str(tmp_path / "x.keras"))


def test_the_ui_listens_where_it_is_told(tmp_path):
    words = ui.command(main.parser().parse_args(["ui"]))
    assert words[words.index("--host") + 1] == "127.0.0.1" and "--allowed-hosts" not in words
    given = ["ui", "--host", "0.0.0.0", "--allowed-hosts", "a.b", "--cors-allowed-origins", "https://c.d"]
    words = ui.command(main.parser().parse_args(given))
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert words[words.index("--allowed-hosts") + 1] == "a.b"
    assert words[words.index("--cors-allowed-origins") + 1] == "https://c.d"
