import pytest

from cxr.core.errors import InputError
from cxr.core.params import (
    RENAMED,
    VOCABULARY,
    AttributeParams,
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
        ({"qqq": 1}, "unknown parameter 'qqq': known are .*batch_size"),
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
    assert str(error.value).startswith("f.yaml: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("old", RENAMED)
def test_a_parameter_of_an_earlier_version_is_refused_with_its_name_now(old, tmp_path):
    assert old not in VOCABULARY and RENAMED[old] in VOCABULARY
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
    with pytest.raises(InputError, match="the value is not YAML"):
        read_overrides(["seed=[1"])


def test_files_that_are_no_parameter_files(tmp_path):
    with pytest.raises(InputError, match="cannot read the parameter file"):
        read_yaml(tmp_path / "missing.yaml")
    for text, message in (("- 1\n", "expected 'key: value' lines, got a list"), ("a: [", "not a YAML file")):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            read_yaml(tmp_path / "a.yaml")


def notebook(*cells, **values):
    return {"In": ["", *cells], **values}


def test_from_notebook_reads_the_parameter_cells_only():
    cells = ["# Parameters\nseed = 0\narchitecture = 'ResNet50V2'", "# Parameters\nseed = 3\n", "n = 5"]
    found = TrainParams.from_notebook(notebook(*cells, seed=3, architecture="ResNet50V2", n=5))
    assert (found.seed, found.architecture) == (3, "ResNet50V2")


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
    with pytest.raises(InputError, match="'n_boot' is a parameter of 3_score, 4_compare, 5_drift, and this notebook"):
        TrainParams.from_notebook(notebook(own, seed=0, n_boot=500))
    with pytest.raises(InputError, match="unknown parameter 'epohcs': did you mean 'epochs'"):
        PretrainParams.from_notebook(notebook("# Parameters\nepohcs = 3", epohcs=3))
    below = notebook("# Parameters\nseed = 0", "# Parameters\nn_boot = 500", seed=0, n_boot=500)
    assert TrainParams.from_notebook(below).seed == 0, "papermill's cell holds what other notebooks read"


def test_a_name_that_was_mended_in_the_same_kernel_is_forgotten():
    wrong, call = "# Parameters\nsead = 3", "settings = TrainParams.from_notebook(globals())"
    found = TrainParams.from_notebook(notebook(wrong, call, "# Parameters\nseed = 3", call, sead=3, seed=3))
    assert found.seed == 3
    with pytest.raises(InputError, match="unknown parameter 'sead'"):
        TrainParams.from_notebook(notebook(wrong, call, call, sead=3))
