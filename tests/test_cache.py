"""cxr.data.cache: entries are found again, replaced, and written once."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_files import grouped, put

from cxr.core.errors import InputError
from cxr.data import dicom, formats, images
from cxr.data.cache import default_cache
from cxr.data.loading import load_images
from cxr.data.manifest import (
    build_manifest,
)


def only_entry(cache):
    (entry,) = cache.iterdir()
    return entry


def test_cache_hit_equals_fresh_and_reads_no_file(folder, tmp_path):
    cache = tmp_path / "cache" / "deep"
    manifest = build_manifest(grouped(folder))
    fresh = load_images(manifest, root=folder, size=16, cache=None)
    first = load_images(manifest, root=folder, size=16, cache=cache)
    for file in folder.rglob("*.png"):
        file.unlink()
    hit = load_images(manifest, root=folder, size=16, cache=cache)
    assert type(first) is type(hit) is np.memmap
    assert (np.asarray(first) == fresh).all() and (np.asarray(hit) == fresh).all()
    for found in (fresh, first, hit):
        with pytest.raises(ValueError, match="read-only"):
            found[0, 0, 0] = 1
    only_entry(cache)  # no temporary file stays behind


def test_cache_key(folder, tmp_path, monkeypatch):
    manifest = build_manifest(grouped(folder))

    def entries():
        return len(list(tmp_path.joinpath("cache").iterdir()))

    def load(manifest, size=16):
        return load_images(manifest, root=folder, size=size, cache=tmp_path / "cache")

    load(manifest)
    load(manifest.assign(split="train", label="x", patient_id="y"))  # no pixel depends on these
    assert entries() == 1
    load(manifest, size=17)
    load(manifest[::-1])
    assert entries() == 3
    for number, module in enumerate((images, dicom, formats), start=4):
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(module.__file__).read_bytes() + b"\n")
        monkeypatch.setattr(module, "__file__", str(changed))
        load(manifest)
        assert entries() == number


def changed(place, value=None):
    """One byte of a file is another: with one bit flipped, or `value`."""

    def change(path):
        content = bytearray(path.read_bytes())
        content[place] = content[place] ^ 1 if value is None else value
        path.write_bytes(content)

    return change


def zeroed(path):
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


def renamed(folder, tmp_path, path):
    """The whole entry of other images, of the same size, under this one's name."""
    other = build_manifest(grouped(folder))[::-1]
    load_images(other, root=folder, size=16, cache=tmp_path / "other")
    only_entry(tmp_path / "other").replace(path)


@pytest.mark.parametrize(
    "damage",
    [
        changed(500),
        changed(-1),
        changed(-40),
        zeroed,
        "renamed",
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an array"),
        lambda path: np.save(path, np.zeros((24, 16, 16), np.float32)),
        lambda path: np.save(path, np.zeros((23, 16, 16), np.uint8)),
        lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    ],
    ids=[
        *("a bit", "its hash", "last pixel", "zeros", "renamed", "longer"),
        *("cut", "empty", "text", "type", "shape", "pickle"),
    ],
)
def test_damaged_cache_is_made_anew(folder, tmp_path, damage):
    manifest = build_manifest(grouped(folder))
    fresh = np.array(load_images(manifest, root=folder, size=16, cache=tmp_path / "cache"))
    entry = only_entry(tmp_path / "cache")
    renamed(folder, tmp_path, entry) if damage == "renamed" else damage(entry)
    with pytest.warns(UserWarning, match="cached images are damaged .* made again"):
        found = load_images(manifest, root=folder, size=16, cache=tmp_path / "cache")
        assert (np.asarray(found) == fresh).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_images(manifest, root=folder, size=16, cache=tmp_path / "cache")
        assert (np.asarray(found) == fresh).all()


def test_cache_that_cannot_be_written(folder, tmp_path):
    blocker = put(tmp_path / "file", b"")
    manifest = build_manifest(grouped(folder))
    with pytest.raises(InputError, match="cannot write the image cache.*CXR_CACHE"):
        load_images(manifest, root=folder, size=16, cache=blocker / "cache")


def test_concurrent_writers(folder, tmp_path):
    manifest = build_manifest(grouped(folder))
    fresh = load_images(manifest, root=folder, size=16, cache=None)
    results = []

    def work():
        results.append(load_images(manifest, root=folder, size=16, cache=tmp_path / "cache"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all((np.asarray(result) == fresh).all() for result in results)
    only_entry(tmp_path / "cache")


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CXR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "cxr"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "cxr"
    monkeypatch.setenv("CXR_CACHE", "~/own")
    assert default_cache() == tmp_path / "own"
