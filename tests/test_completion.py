"""The scripts of `cxr completion` in real shells, where there are any."""

import shutil
import subprocess

import pytest

from cxr import cli, completion
from cxr.params import StudyParams

SHELLS = completion.SHELLS
needs = {shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here") for shell in SHELLS}
# How each reads the script $0.
READ = {
    "bash": ["-euc", 'source "$0"'],
    "zsh": ["-fc", 'autoload -U compinit; compinit -u -D; eval "$(<$0)"'],
    "tcsh": ["-fc", "source $argv[1]"],
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(completion.script(cli._parser(), shell), "utf-8")
    return folder


@pytest.fixture
def offers(scripts, tmp_path):
    """What bash offers for words, the last of which is being typed, in a folder with some files."""
    for name in ("my.yaml", "other.yml", "note.txt", "two words.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()

    def ask(*words: str) -> list[str]:
        code = (
            "source $1; shift; COMP_WORDS=(cxr \"$@\"); COMP_CWORD=$#; _cxr; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        run = ["bash", "-c", code, "bash", str(scripts / "bash"), *words]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr == ""
        return sorted(done.stdout.split("\n")[:-1])

    return ask


@needs["bash"]
def test_bash_knows_the_function(scripts):
    code = 'source "$1"; complete -p cxr'
    run = ["bash", "-c", code, "bash", str(scripts / "bash")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o bashdefault -F _cxr cxr\n"


@needs["bash"]
def test_bash_completes_commands_options_and_choices(offers):
    assert set(cli._commands(cli._parser())) <= set(offers(""))
    assert offers("st") == ["study"]
    assert offers("study", "--d") == ["--dry-run"]
    assert offers("study", "my.yaml", "--set", "seed", "=", "[0]", "--dr") == ["--dry-run"]
    assert offers("completion", "z") == ["zsh"]
    assert offers("params", "seed", "image_s") == ["image_size"]


@needs["bash"]
def test_bash_completes_files_and_folders(offers):
    for command in ("study", "check"):
        assert offers(command, "") == ["folder", "my.yaml", "other.yml", "two words.yaml"]
        assert offers(command, "my.yaml", "--out", "") == ["folder"]


@needs["bash"]
def test_bash_completes_settings(offers):
    assert offers("study", "my.yaml", "--set", "") == sorted(f"{key}=" for key in StudyParams.model_fields)
    assert offers("study", "my.yaml", "--set", "name", "=", "mine", "optim") == ["optimizer="]
    assert offers("study", "my.yaml", "--set", "optimizer", "=") == ["adam", "sgd"]
    assert offers("study", "my.yaml", "--set", "optimizer", "=", "s") == ["sgd"]
    assert offers("study", "my.yaml", "--set", "xla", "=", "") == ["false", "true"]
    assert offers("study", "my.yaml", "--set", "data", "=", "fol") == ["folder"]
    assert offers("study", "my.yaml", "--set", "seed", "=", "") == [""]


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs[shell]) for shell in SHELLS])
def test_the_script_is_read_without_complaint(shell, scripts):
    done = subprocess.run([shell, *READ[shell], str(scripts / shell)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_left_to_be_filled_in(scripts):
    for shell in SHELLS:
        text = (scripts / shell).read_text("utf-8")
        assert "@KEYS@" not in text and "@SETTINGS@" not in text and "@VALUES@" not in text
        assert "image_size" in text and "sgd" in text or shell == "tcsh"
