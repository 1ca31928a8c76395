import re

import pytest

from cxr.cli import main, params_page
from cxr.core.params import StudyParams


def test_every_parameter_of_a_study_is_there_once_and_described():
    listed = [key for _, fields in params_page.groups() for key in fields]
    assert sorted(listed) == sorted(StudyParams.model_fields)
    assert [key for key, field in StudyParams.model_fields.items() if not field.description] == []
    text = params_page.lines()
    assert sorted(re.findall(r"^  (\w+): ", text, re.MULTILINE)) == sorted(listed)
    assert "None" not in text


def test_type_default_and_description():
    assert params_page.lines(["split_seed", "image_size"]) == (
        "The images, their labels and their splits\n"
        "  split_seed: 0\n"
        "      seed of the splits; the same for every seed, unless vary_split [whole number, at least 0, less\n"
        "      than 2147483648]\n"
        "  image_size: 128\n"
        "      side in pixels [whole number, at least 32, at most 2048]"
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("name", "text"),
        ("optimizer", "one of: adam, sgd"),
        ("xla", "true or false"),
        ("label_map", "mapping"),
        ("val_fraction", "number, more than 0, less than 1"),
        ("seed", "list of whole number, at least 0, less than 2147483648"),
    ],
)
def test_types_in_words(key, words):
    assert params_page.type_of(StudyParams.model_fields[key]) == words


@pytest.mark.parametrize("width", [80, 300])
def test_lines_keep_to_the_width(width):
    assert max(map(len, params_page.lines(width=width).splitlines())) <= min(width, 100)


def test_unknown_keys_get_close_ones(capsys):
    assert main.main(["params", "image_sise", "zzz", "seed"]) == 2
    error = capsys.readouterr().err
    assert "unknown parameter 'image_sise': did you mean 'image_size'" in error
    assert "unknown parameter 'zzz': `cxr params` lists all" in error


def test_the_command(capsys):
    assert main.main(["params", "seed"]) == 0
    assert "seed: [0, 1]" in capsys.readouterr().out
