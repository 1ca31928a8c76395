import errno
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cxr import backup


@pytest.fixture
def saved(tmp_path):
    taken = backup.take(tmp_path / "b", tmp_path)
    yield taken
    taken.delete()


def again(saved):
    saved._lock.close()
    return backup.take(saved.folder, saved.spare)


def test_the_newest_state_comes_back_and_what_was_kept_is_not_written_twice(saved):
    for k in (1, 2, 3):
        assert saved.save("stage", {"x": np.full(3, k, np.float32)}, {"epoch": k, "loss": 0.1 + k})
    saved.keep("a.txt", lambda path: path.write_text("first"))
    saved.save("other", {}, {})
    taken = again(saved)
    state = taken.load("stage")
    assert state.notes == {"epoch": 3, "loss": 3.1} and state.arrays["x"].tolist() == [3, 3, 3]
    assert taken.keep("a.txt", lambda path: path.write_text("second")).read_text() == "first"
    assert len(list(taken.folder.glob("*.stage"))) == 2
    taken.delete()
    assert not saved.folder.exists()


@pytest.mark.parametrize("name", ["arrays.npz", "notes.json", "index.json"])
def test_damage_goes_back_to_the_state_before(saved, capsys, name):
    for k in (1, 2):
        saved.save("stage", {"x": np.arange(9.0)}, {"epoch": k})
    path = saved.folder / "000002.stage" / name
    path.write_bytes(path.read_bytes()[:-3])
    taken = again(saved)
    assert taken.load("stage").notes == {"epoch": 1}
    assert "goes back" in capsys.readouterr().out
    taken.delete()


def test_a_kept_file_counts_only_with_a_state_and_whole(saved):
    saved.save("stage", {}, {"epoch": 1})
    saved.keep("a.txt", lambda path: path.write_text("a"))
    taken = again(saved)
    assert not (taken.folder / "a.txt").exists()
    taken.keep("a.txt", lambda path: path.write_text("b"))
    taken.save("stage", {}, {"epoch": 2})
    (taken.folder / "a.txt").write_text("damaged")
    taken = again(taken)
    assert taken.load("stage").notes == {"epoch": 1}
    taken.delete()


def test_a_full_disk_is_said_and_does_not_stop(saved, monkeypatch, capsys):
    saved.save("stage", {}, {"epoch": 1})

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backup, "_to_disk", full)
    assert not saved.save("stage", {"x": np.zeros(3)}, {"epoch": 2})
    assert saved.keep("a.txt", lambda path: path.write_text("a")) == saved.spare / "a.txt"
    assert capsys.readouterr().out.count("No space left on device") == 2
    monkeypatch.undo()
    assert [path.name for path in saved.folder.iterdir()] == ["000001.stage"]
    assert saved.load("stage").notes == {"epoch": 1}


def test_another_process_goes_without(saved):
    code = f"from cxr import backup; print(backup.take({str(saved.folder)!r}, '.').folder)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "another process" in out and out.endswith("None\n")


class Elsewhere:
    """A mirror that is a folder."""

    def __init__(self, folder):
        self.folder, self.fails = folder, False

    def names(self):
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def send(self, path, name):
        if self.fails:
            raise OSError("the store is full")
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.folder / name)

    def get(self, name, path):
        shutil.copyfile(self.folder / name, path)

    def remove(self, name):
        path = self.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "_MIRROR_SECONDS", 0)
    monkeypatch.setattr(backup, "_MIRROR_SHARE", 1e9)
    return Elsewhere(tmp_path / "mirror")


def test_another_machine_goes_on_from_the_mirror(tmp_path, mirror, capsys):
    first = backup.take(tmp_path / "first" / "b", tmp_path, mirror)
    first.save("transfer", {"x": np.arange(3)}, {"epoch": 9})
    first.keep("epoch_001.txt", lambda path: path.write_text("one"))
    for k in (1, 2, 3):
        first.save("fine_tuned", {"x": np.full(2, k)}, {"epoch": k})
    # one state a part, and every kept file
    assert {name.partition("/")[0] for name in mirror.names()} == {
        "000001.transfer", "000004.fine_tuned", "epoch_001.txt"
    }  # fmt: skip
    second = backup.take(tmp_path / "second" / "b", tmp_path, mirror)
    assert "another machine" in capsys.readouterr().out
    assert second.load("fine_tuned").notes == {"epoch": 3} and second.load("transfer").notes == {"epoch": 9}
    assert second.keep("epoch_001.txt", lambda path: path.write_text("two")).read_text() == "one"
    second.save("fine_tuned", {}, {"epoch": 4})
    first._lock.close()
    back = backup.take(tmp_path / "first" / "b", tmp_path, mirror)  # whose own states are older now
    assert back.load("fine_tuned").notes == {"epoch": 4}
    back.delete()
    assert mirror.names() == []


def test_newer_states_here_are_kept(tmp_path, mirror):
    taken = backup.take(tmp_path / "b", tmp_path, mirror)
    taken.save("part", {}, {"epoch": 1})
    taken._mirror_again = float("inf")  # copies are made now and then only
    taken.save("part", {}, {"epoch": 2})
    taken._lock.close()
    assert backup.take(tmp_path / "b", tmp_path, mirror).load("part").notes == {"epoch": 2}


def test_a_copy_that_was_cut_off_is_not_used(tmp_path, mirror):
    taken = backup.take(tmp_path / "b", tmp_path, mirror)
    taken.save("part", {}, {"epoch": 1})
    taken.save("part", {}, {"epoch": 2})
    (mirror.folder / "000002.part" / "index.json").unlink()
    assert backup.take(tmp_path / "other", tmp_path, mirror).load("part") is None


def test_a_mirror_that_fails_is_said_and_does_not_stop(tmp_path, mirror, capsys):
    taken = backup.take(tmp_path / "b", tmp_path, mirror)
    mirror.fails = True
    assert taken.save("part", {}, {"epoch": 1})
    assert "no copy of it could be sent (the store is full): training goes on" in capsys.readouterr().out
