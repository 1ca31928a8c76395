import errno
import subprocess
import sys

import numpy as np
import pytest

from cxr.training import checkpointing


@pytest.fixture
def saved(tmp_path):
    taken = checkpointing.take(tmp_path / "b", tmp_path)
    yield taken
    taken.delete()


def again(saved):
    saved._lock.close()
    return checkpointing.take(saved.folder, saved.spare)


def test_the_newest_state_comes_back_and_what_was_kept_is_not_written_twice(saved):
    for k in (1, 2, 3):
        assert saved.save("stage", {"x": np.full(3, k, np.float32)}, {"epoch": k, "loss": 0.1 + k})
    saved.keep("a.txt", lambda path: path.write_text("first"))
    saved.save("other", {}, {})
    taken = again(saved)
    state = taken.load("stage")
    assert state.notes == {"epoch": 3, "loss": 3.1} and state.arrays["x"].tolist() == [3, 3, 3]
    assert taken.keep("a.txt", lambda path: path.write_text("second")).read_text() == "first"
    assert len(list(taken.folder.glob("*.stage.npz"))) == 2
    taken.delete()
    assert not saved.folder.exists()


@pytest.mark.parametrize("damage", ["cut", "a bit", "text", "empty"])
def test_damage_goes_back_to_the_state_before(saved, capsys, damage):
    for k in (1, 2):
        saved.save("stage", {"x": np.arange(9.0)}, {"epoch": k})
    path = saved.folder / "000002.stage.npz"
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(5).tobytes()) + 7] ^= 1
    path.write_bytes({"a bit": content, "cut": path.read_bytes()[:-3], "text": b"no", "empty": b""}[damage])
    taken = again(saved)
    assert taken.load("stage").notes == {"epoch": 1}
    assert "resumes from the state before" in capsys.readouterr().out
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

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert not saved.save("stage", {"x": np.zeros(3)}, {"epoch": 2})
    assert saved.keep("a.txt", lambda path: path.write_text("a")) == saved.spare / "a.txt"
    assert capsys.readouterr().out.count("No space left on device") == 2
    monkeypatch.undo()
    assert [path.name for path in saved.folder.iterdir()] == ["000001.stage.npz"]
    assert saved.load("stage").notes == {"epoch": 1}


def test_another_process_goes_without(saved):
    code = f"from cxr.training import checkpointing as c; print(c.take({str(saved.folder)!r}, '.').folder)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "another process" in out and out.endswith("None\n")
