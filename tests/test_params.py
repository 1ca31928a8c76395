import click.testing
import papermill.cli
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from cxr.core import execution
from cxr.core.errors import InputError
from cxr.core.params import (
    NOTEBOOKS,
    RENAMED,
    AttributeParams,
    CompareParams,
    DriftParams,
    ExploreParams,
    PretrainParams,
    StudyParams,
    TrainParams,
    read_overrides,
    read_yaml,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectur": ["DenseNet201"]}, "unknown parameter 'architectur': did you mean 'architecture'"),
        ({"qqq": 1}, "unknown parameter 'qqq': `cxr params` lists all"),
        ({"epochs": 3}, "unknown parameter 'epochs': did you mean 'transfer_epochs' or 'fine_tune_epochs'"),
        ({"use_split": "test", 3: 1}, "unknown parameter 'use_split': did you mean .*; unknown parameter '3'"),
        ({"seed": "0,1"}, r"seed.0: .*got '0,1': write a list as \[0,1\]"),
        ({"seed": True}, "seed: a number is wanted, got True"),
        ({"seed": [True]}, "seed: a number is wanted, got True"),
        ({"n_boot": True}, "n_boot: a number is wanted, got True"),
        ({"dropout": False}, "dropout: a number is wanted, got False"),
        ({"groups": ["age"], "bands": {"age": [True]}}, "bands: a number is wanted, got True"),
        ({"transfer_learning_rate": float("inf")}, "transfer_learning_rate: should be a finite number, got inf"),
        ({"transfer_learning_rate": "nan"}, "transfer_learning_rate: should be a finite number"),
        ({"name": 5}, "name: should be a valid string, got 5: put it in quotes .papermill: -r name VALUE"),
        ({"explain": True}, "explain: should be 'true' or 'predicted', got True: put it in quotes"),
        ({"label_map": {"a": False}}, "label_map.a: should be a valid string, got False: put it in quotes"),
        ({"label_map": {False: "a"}}, "label_map.0.*: should be a valid string, got False: put it in quotes"),
        (
            {"patient_column": None},
            "patient_column: should be a valid string, got None: write '' for an",
        ),
        ({"groups": "[a, b]"}, "groups: a list is wanted, got the text '.a, b.' .papermill: give lists with -y"),
        ({"label_map": "{a: b}"}, "label_map: should be a valid dictionary, got '{a: b}'"),
        ({"data": "a\0b"}, r"data: a text that no file and no store can hold, got 'a.*x00b'"),
        ({"label_map": {"a": "\udcff"}}, "label_map: a text that no file and no store can hold"),
        ({"name": "a\nb" * 1000}, "name: use letters, digits"),
        ({"a\nb": 1}, r"unknown parameter 'a\\nb'"),
        ({"method": None}, "method: should be a valid list, got None"),
        ({"architecture": ["VGG61"]}, "architecture.0: unknown 'VGG61': did you mean VGG19 or VGG16?"),
        ({"image_size": "big"}, "image_size: should be a valid integer.*got 'big'"),
        ({"image_size": 8}, "image_size: should be greater than or equal to 32, got 8"),
        ({"seed": [1, 1]}, r"seed: list every entry once, got \[1, 1\]"),
        ({"seed": []}, "seed"),
        ({"data": False}, "data: should be a valid string, got False"),
        ({"val_fraction": 0.5, "test_fraction": 0.45}, "less than a tenth of the images is left for training"),
        ({"name": "a/b"}, "name: use letters, digits"),
        ({"dropout": 1.0}, "dropout: should be less than 1"),
    ],
)
def test_bad_values_get_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        StudyParams.check(values, where="f.yaml")
    assert (
        str(error.value).startswith("f.yaml: ") and "\n" not in str(error.value) and len(str(error.value)) < 2000
    )


@pytest.mark.parametrize("old", RENAMED)
def test_a_parameter_of_an_earlier_version_is_refused_with_its_name_now(old, tmp_path):
    assert RENAMED[old] in StudyParams.known()
    assert not [model for model in (StudyParams, *NOTEBOOKS.values()) if old in model.known()]
    with pytest.raises(InputError, match=f"^f.yaml: {old} is now {RENAMED[old]}$"):
        StudyParams.check({old: 1}, where="f.yaml")
    path = tmp_path / "study.yaml"
    path.write_text("name: x\n")
    with pytest.raises(InputError, match=f"{old} is now {RENAMED[old]}"):
        StudyParams.read(path, read_overrides([f"{old}=1"]))


def test_several_bad_values_are_named_at_once():
    with pytest.raises(InputError, match="image_size.*; seed"):
        StudyParams.check({"seed": "x", "image_size": 1}, where="f")


def test_a_study_file_drives_one_notebook_with_scalars():
    study = {"architecture": ["ResNet50V2", "InceptionV3"], "seed": [0, 1], "method": ["layercam"], "jobs": 2}
    train = TrainParams.check({**study, "architecture": "InceptionV3", "seed": 1}, where="nb")
    assert (train.architecture, train.seed) == ("InceptionV3", 1)
    with pytest.raises(
        InputError,
        match="architecture: this notebook takes one value.*choose one with `-p architecture ResNet50V2`",
    ):
        TrainParams.check({**study, "seed": 0}, where="nb")
    assert AttributeParams.check(study, where="nb").method == ["layercam"]


@pytest.mark.parametrize(
    ("model", "key", "refused"),
    [
        (StudyParams, "n_boots", "did you mean 'n_boot'"),
        (StudyParams, "train_run_id", "unknown parameter 'train_run_id'"),
        (TrainParams, "epochs", "did you mean 'transfer_epochs' or 'fine_tune_epochs'"),
        (AttributeParams, "score_run_ids", "did you mean '"),
        (CompareParams, "train_run_id", "unknown parameter"),
        (PretrainParams, "epoch", "did you mean 'epochs'"),
        (PretrainParams, "methods", "the notebook's parameters cell lists all"),
        (ExploreParams, "jobs", "the notebook's parameters cell lists all"),
        (DriftParams, "architecture", "unknown parameter 'architecture'"),
        (DriftParams, "model", "did you mean 'model_b' or 'model_a'"),
    ],
)
def test_what_nobody_reads_is_refused_by_notebooks_and_studies(model, key, refused):
    with pytest.raises(InputError, match=refused):
        model.check({key: 1}, where="x")
    own = next(iter(model.model_fields))
    with pytest.raises(InputError, match=f"'{key}'"):  # by papermill
        model.from_notebook(notebook(f"# Parameters\n{own} = 1", f"# Parameters\n{key} = 1", **{own: 1, key: 1}))
    with pytest.raises(InputError, match=f"'{key}'"):  # in the notebook's own cell
        model.from_notebook(notebook(f"# Parameters\n{own} = 1\n{key} = 1", **{own: 1, key: 1}))


def test_a_notebook_of_a_study_takes_the_keys_of_the_others_and_says_so(monkeypatch, capsys):
    cells = ["# Parameters\nseed = 0", "# Parameters\nn_boot = 300\njobs = 2"]
    monkeypatch.setenv("CXR_WORKER", "1")
    assert TrainParams.from_notebook(notebook(*cells, seed=0, n_boot=300, jobs=2)).seed == 0
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("CXR_WORKER")
    TrainParams.from_notebook(notebook(*cells, seed=0, n_boot=300, jobs=2))
    assert capsys.readouterr().out == "parameters of a study that this notebook does not read: n_boot, jobs\n"


@pytest.mark.parametrize("text", ["seed: 3\nmethod: hirescam\narchitecture: VGG16\ngroups: sex\n", ""])
def test_one_value_stands_for_a_list_of_one(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    words = [] if text else ["seed=3", "method=hirescam", "architecture=VGG16", "groups=sex"]
    study = StudyParams.read(path, read_overrides(words))
    assert (study.seed, study.method, study.architecture) == ([3], ["hirescam"], ["VGG16"])
    assert study.groups == ["sex"]
    assert AttributeParams.check({"method": "hirescam", "seed": 3}, where="nb").method == ["hirescam"]
    drift = DriftParams.check({"method": "gradcam", "like_a": "a.keras", "gate": "n_empty<3"}, where="nb")
    assert (drift.method, drift.like_a, drift.gate) == (["gradcam"], ["a.keras"], ["n_empty<3"])


def test_yaml_reads_1e_4_as_text_and_we_as_a_number(tmp_path):
    (tmp_path / "a.yaml").write_text("fine_tune_learning_rate: 1e-4\n")
    assert read_yaml(tmp_path / "a.yaml") == {"fine_tune_learning_rate": "1e-4"}
    assert StudyParams.read(tmp_path / "a.yaml").fine_tune_learning_rate == 1e-4


def test_overrides_lie_over_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("image_size: 64\nname: a\n")
    overrides = read_overrides(["image_size=96", "architecture=[ResNet50V2]", "name=b=c"])
    assert overrides == {"image_size": 96, "architecture": ["ResNet50V2"], "name": "b=c"}
    assert StudyParams.read(tmp_path / "a.yaml", {"image_size": 96}).image_size == 96
    for bad in ("image_size", "=3"):
        with pytest.raises(InputError, match="expected key=value"):
            read_overrides([bad])
    with pytest.raises(InputError, match="--set seed=.1: the value is not YAML: .* .line 1, column 3"):
        read_overrides(["seed=[1"])
    with pytest.raises(InputError, match="--set seed=2: 'seed' is given twice"):
        read_overrides(["seed=1", "seed=2"])
    with pytest.raises(InputError, match="--set jobs=2: 'jobs' is given twice"):
        read_overrides(["jobs=2"], options={"jobs": 3})


TYPED = [
    "/d/Study #2",
    "*",
    "[",
    "yes",
    "2024-01-01",
    "",
    "null",
    "~",
    "&a",
    "!x",
    "a: b",
    "010",
    "😀",
    " x ",
    "{}",
    "'",
]


@pytest.mark.parametrize("text", TYPED)
def test_a_text_of_the_command_line_is_what_was_typed(text, tmp_path):
    (tmp_path / "a.yaml").write_text("")
    for key in ("data", "weights", "patient_pattern"):
        assert getattr(StudyParams.read(tmp_path / "a.yaml", read_overrides([f"{key}={text}"])), key) == text
    assert read_overrides([f"model_a={text}", "gate=a#b"], DriftParams) == {"model_a": text, "gate": "a#b"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("seed=010", [10]),
        ("groups=a #b", ["a #b"]),
        ("groups=[a, b]", ["a", "b"]),
        ("placebo=yes", True),
        ("explain=true", "true"),
        ("val_fraction=1e-1", 0.1),
        ("label_map={a: b}", {"a": "b"}),
        ("label_separator=|", "|"),
        ("patient_column=", ""),
    ],
)
def test_a_value_of_the_command_line_has_the_parameter_s_own_type(word, value, tmp_path):
    (tmp_path / "a.yaml").write_text("")
    found = getattr(StudyParams.read(tmp_path / "a.yaml", read_overrides([word])), word.partition("=")[0])
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["''", '"a b"'])
def test_quotes_that_the_shell_did_not_take_away_are_refused(text):
    with pytest.raises(InputError, match="the quotes would be part of the value: leave them out"):
        read_overrides([f"patient_column={text}"])


def test_files_that_are_no_parameter_files(tmp_path):
    with pytest.raises(InputError, match="cannot read the parameter file"):
        read_yaml(tmp_path / "missing.yaml")
    for text, message in (("- 1\n", "expected 'key: value' lines, got a list"), ("a: [", "not a YAML file")):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            read_yaml(tmp_path / "a.yaml")


# -- one gate: whichever way a value comes, it is the same, or it is refused

ODD = [
    "",
    "yes",
    "No",
    "null",
    "~",
    "010",
    "1:30",
    "1e3",
    "2024-01-01",
    "a #b",
    "[",
    "{}",
    "*a",
    "&a",
    "!a",
    "-",
    "😀",
    "\x85",
]
TEXTS = st.sampled_from(ODD) | st.text(max_size=20)
VALUES = (
    TEXTS | st.booleans() | st.integers() | st.floats() | st.none() | st.lists(TEXTS | st.integers(), max_size=3)
)
VALUES |= st.dictionaries(TEXTS, TEXTS | st.lists(st.floats(allow_nan=False), max_size=2), max_size=2)
KEYS = st.sampled_from(list(StudyParams.model_fields))


def checked(values):
    """The parameters, or None where they are refused, in one line."""
    try:
        return StudyParams.check(values, where="f").model_dump()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return None


def by_papermill(values):
    """What a notebook's cell holds after papermill has read `-y`, as `execution.command` writes it."""
    words = execution.command(execution.Path("a"), execution.Path("b"), params_file="f", overrides=values)
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papermill.cli, "execute_notebook", lambda *_, parameters, **__: given.update(parameters))
        arguments = [word for word in words[words.index("a") :] if word not in ("-f", "f")]
        done = click.testing.CliRunner().invoke(papermill.cli.papermill, arguments)
    assert done.exit_code == 0, done.output
    cell, namespace = PythonTranslator.codify(given), {}
    cell.encode()  # as the notebook is written
    exec(compile(cell, "cell", "exec"), namespace)
    return {key: namespace[key] for key in given}


@pytest.mark.slow
@settings(max_examples=500, derandomize=True)
@given(key=KEYS, value=VALUES)
@example(key="data", value="\ud83d\ude00")
@example(key="data", value="a\u2028b\x7f")
def test_any_value_is_refused_or_arrives_as_it_was_meant(key, value, tmp_path_factory):
    own = {key: value}
    wanted = checked(own)
    if wanted is None:
        return
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    text = yaml.safe_dump(own, allow_unicode=True)
    if yaml.safe_load(text) != own:  # PyYAML writes U+0085 as a line break that it reads as a space
        text = yaml.safe_dump(own)
    path.write_text(text, encoding="utf-8")
    assert checked(read_yaml(path)) == wanted
    assert checked(by_papermill(own)) == wanted
    stored = yaml.safe_dump(wanted, sort_keys=False)
    path.write_text(stored, encoding="utf-8")
    assert checked(read_yaml(path)) == wanted, "as a run stores it in parameters.yaml"


@settings(max_examples=500, derandomize=True)
@given(key=KEYS, text=TEXTS)
def test_any_text_of_the_command_line_is_refused_or_taken_as_it_is(key, text):
    try:
        found = StudyParams.check(read_overrides([f"{key}={text}"]), where="f").model_dump()[key]
    except InputError as error:
        assert "\n" not in str(error)
        return
    kind = StudyParams.model_fields[key].annotation
    if kind is str:
        assert found == text
    elif kind in (int, float):
        assert found == kind(text)
    elif isinstance(found, list) and not text.lstrip().startswith("["):
        assert found == [type(found[0])(text)]


def notebook(*cells, **values):
    return {"In": ["", *cells], **values}


def test_from_notebook_reads_the_parameter_cells_only():
    cells = ["# Parameters\nseed = 0\narchitecture = 'ResNet50V2'", "# Parameters\nseed = 3\n", "n = 5"]
    found = TrainParams.from_notebook(notebook(*cells, seed=3, architecture="ResNet50V2", n=5))
    assert (found.seed, found.architecture) == (3, "ResNet50V2")


@pytest.mark.parametrize(
    "line", ["seed, batch_size = 3, 4", "seed += 1", "for seed in (1, 2): pass", "import seed", "seed: int"]
)
def test_what_would_not_be_read_in_a_parameters_cell_is_refused(line):
    with pytest.raises(InputError, match="write `name = value` in the parameters cell, got `"):
        TrainParams.from_notebook(notebook(f"# Parameters\nseed = 0\n{line}", seed=3, batch_size=4))


def test_a_parameters_cell_that_could_not_run_counts_for_nothing():
    cells = ["# Parameters\nseed = ", "# words", "# Parameters\nseed = 3"]
    assert TrainParams.from_notebook(notebook(*cells, seed=3)).seed == 3


def test_the_variable_of_a_comprehension_is_no_parameter():
    cell = "# Parameters\nlabel_map = {name: name for name in ('a', 'b')}\nseed: int = 3"
    found = TrainParams.from_notebook(notebook(cell, label_map={"a": "a", "b": "b"}, seed=3))
    assert (found.label_map, found.seed) == ({"a": "a", "b": "b"}, 3)


def test_from_notebook_refuses_what_papermill_only_warns_of():
    with pytest.raises(InputError, match="unknown parameter 'sead': did you mean 'seed'"):
        TrainParams.from_notebook(notebook("# Parameters\nseed = 0", "# Parameters\nsead = 3\n", seed=0, sead=3))
    with pytest.raises(InputError, match="run the notebook.s parameters cell first"):
        TrainParams.from_notebook(notebook("x = 1", x=1))


def test_a_notebooks_own_cell_holds_only_what_the_notebook_reads():
    own = "# Parameters\nseed = 0\nn_boot = 500"
    with pytest.raises(
        InputError, match="'n_boot' is a parameter of 3_score, 4_compare, 5_drift, and this notebook"
    ):
        TrainParams.from_notebook(notebook(own, seed=0, n_boot=500))
    with pytest.raises(InputError, match="unknown parameter 'epohcs': did you mean 'epochs'"):
        PretrainParams.from_notebook(notebook("# Parameters\nepohcs = 3", epohcs=3))
    below = notebook("# Parameters\nseed = 0", "# Parameters\nn_boot = 500", seed=0, n_boot=500)
    assert TrainParams.from_notebook(below).seed == 0, "papermill's cell holds what other notebooks read"


def test_a_parameter_of_another_notebook_gets_the_nearest_name_too():
    cells = ["# Parameters\nseed = 0", "# Parameters\nepochs = 3"]
    said = "of 0_lungs, 0_pretrain, .* remove it, or did you mean 'transfer_epochs' or"
    with pytest.raises(InputError, match=said):
        TrainParams.from_notebook(notebook(*cells, seed=0, epochs=3))


def test_a_name_that_was_mended_in_the_same_kernel_is_forgotten():
    wrong, call = "# Parameters\nsead = 3", "settings = TrainParams.from_notebook(globals())"
    found = TrainParams.from_notebook(notebook(wrong, call, "# Parameters\nseed = 3", call, sead=3, seed=3))
    assert found.seed == 3
    with pytest.raises(InputError, match="unknown parameter 'sead'"):
        TrainParams.from_notebook(notebook(wrong, call, call, sead=3))
