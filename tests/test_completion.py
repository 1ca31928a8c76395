"""The scripts of `cxr completion`, in the shells that this machine has."""

import shutil
import subprocess

import pytest
from test_cli import COMMANDS

from cxr.cli import main

# Arguments with which each shell reads a script, whose path follows.
READ = {
    "bash": ["-n"],
    "zsh": ["-fc", 'autoload -U compinit; compinit -u -D; eval "$(<$0)"'],
    "tcsh": ["-fc", "source $argv[1]"],
}
needs = {shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here") for shell in READ}


@pytest.fixture
def script(tmp_path, capsys):
    def make(shell):
        assert main.main(["completion", shell]) == 0
        path = tmp_path / shell
        path.write_text(capsys.readouterr().out, "utf-8")
        return path

    return make


@pytest.mark.parametrize("shell", READ)
def test_the_script_names_commands_and_options(shell, script):
    text = script(shell).read_text("utf-8")
    for word in (*COMMANDS, "tracking-uri", "scheduler"):
        assert word in text


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs[shell]) for shell in READ])
def test_the_script_is_read_without_complaint(shell, script):
    done = subprocess.run([shell, *READ[shell], str(script(shell))], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs["bash"]
def test_bash_completes_commands_options_choices_files_and_folders(script, tmp_path):
    path = script("bash")
    (tmp_path / "files" / "folder").mkdir(parents=True)
    (tmp_path / "files" / "my.yaml").touch()

    def offers(*words: str) -> list[str]:
        code = 'source $1; shift; COMP_WORDS=(cxr "$@"); COMP_CWORD=$#; _shtab_cxr; echo "${COMPREPLY[@]}"'
        run = ["bash", "-c", code, "bash", str(path), *words]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path / "files")
        return sorted(done.stdout.split())

    assert offers("st") == ["study"] and offers("study", "--d") == ["--dry-run"]
    assert offers("completion", "z") == ["zsh"]
    assert offers("study", "m") == ["my.yaml"] and offers("study", "my.yaml", "--out", "") == ["folder"]
