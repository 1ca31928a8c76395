"""cxr.core.arrays and the image cache on it: NumPy's indexing, whole files or none, one writer at a time."""

import functools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cxr.core import arrays
from cxr.core.arrays import Subset, blocks, locked
from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data import loading
from cxr.data import manifest as data_manifest


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def written(path, array):
    return arrays.write(path, array.shape, array.dtype, [array])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    array = noise((40, 5, 3), np.float32)
    return array, written(tmp_path_factory.mktemp("store") / "x.npy", array)


keys = st.one_of(
    st.integers(-35, 35),
    st.slices(30),
    st.lists(st.integers(-30, 29), max_size=30),
    hnp.arrays(np.int32, hnp.array_shapes(max_dims=2, max_side=6), elements=st.integers(-30, 29)),
    hnp.arrays(bool, st.sampled_from([30, 30, 30, 29])),
)


@given(keys)
@settings(max_examples=100)
def test_a_subset_is_indexed_as_numpy_does(shared, key):
    array, mapped = shared
    rows = np.random.default_rng(0).permutation(40)[:30]
    subset = Subset(mapped, rows)
    assert (len(subset), subset.shape, subset.dtype, subset.ndim) == (30, (30, 5, 3), array.dtype, 3)
    try:
        expected = array[rows][key]
    except IndexError:
        with pytest.raises(IndexError):
            subset[key]
        return
    found = subset[key]
    assert found.dtype == array.dtype and found.shape == expected.shape and (found == expected).all()


@given(st.lists(st.integers(0, 39), max_size=30), st.lists(st.integers(0, 1000), max_size=20))
@settings(max_examples=40)
def test_a_subset_of_a_subset(shared, chosen, again):
    array, mapped = shared
    inner = [number % len(chosen) for number in again] if chosen else []
    for source in (array, mapped):
        found = Subset(Subset(source, chosen), inner)
        assert found.shape == (len(inner), 5, 3) and (found[:] == array[chosen][inner]).all()


@given(st.data())
@settings(max_examples=25)
def test_what_is_written_comes_back(tmp_path_factory, draw):
    shape = draw.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    dtype = draw.draw(st.sampled_from(["u1", "<f4", "<i8", "?"]))
    array = noise(shape).astype(dtype)
    cuts = sorted(draw.draw(st.lists(st.integers(0, shape[0]), max_size=4)))
    path = tmp_path_factory.mktemp("written") / "x.npy"
    mapped = arrays.write(path, shape, dtype, np.split(array, cuts))
    for found in (mapped, np.load(path), arrays.read(path, shape, dtype), pickle.loads(pickle.dumps(mapped))):
        assert found.dtype == array.dtype and found.shape == array.shape and (found == array).all()
    assert [path] == list(path.parent.iterdir())


def test_blocks_and_wrong_rows(shared, monkeypatch):
    array, mapped = shared
    monkeypatch.setattr(arrays, "_BLOCK_BYTES", 7 * array[0].nbytes)
    for source in (array, mapped, Subset(mapped, np.arange(40))):
        assert [len(block) for block in blocks(source)] == [7, 7, 7, 7, 7, 5]
        assert (np.concatenate(list(blocks(source))) == array).all()
    for wrong in ([40], [-1], [[0]]):
        with pytest.raises(IndexError, match="from 0 to 39"):
            Subset(array, wrong)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_a_removed_file_can_still_be_read_and_a_temporary_one_leaves_nothing(tmp_path, monkeypatch):
    array = noise((20, 4))
    mapped = written(tmp_path / "x.npy", array)
    (tmp_path / "x.npy").unlink()
    assert (mapped[3:9] == array[3:9]).all()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = arrays.temporary(array.shape, array.dtype, [array])
    assert (other == array).all() and not list(tmp_path.iterdir())


def peak_memory(work) -> int:
    """The most bytes that Python and NumPy have allocated at once for a piece of work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_pass_over_all_rows_allocates_a_batch(tmp_path):
    subset = Subset(written(tmp_path / "x.npy", noise((1000, 1024))), np.arange(1000))
    batches = np.split(np.random.default_rng(0).permutation(1000), 10)
    assert peak_memory(lambda: [subset[rows].sum() for rows in batches]) < 300_000  # a batch has 100 KiB


# --- whole or not at all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda: iter([noise((3, 4)), noise((3, 5))]), ValueError),
        (lambda: iter([noise((3, 4)), noise((3, 4), np.int16)]), ValueError),
        (lambda: iter([noise((3, 4))]), ValueError),
        (lambda: iter([noise((7, 4))]), ValueError),
        (lambda: (1 / 0 if k else noise((3, 4)) for k in range(2)), ZeroDivisionError),
    ],
    ids=["shape", "dtype", "few", "many", "exception"],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, bad, error, before):
    path = tmp_path / "x.npy"
    old = noise((2, 2))
    if before:
        written(path, old)
    with pytest.raises(error):
        arrays.write(path, (6, 4), np.uint8, bad())
    assert list(tmp_path.iterdir()) == [path] * before
    if before:
        assert (arrays.read(path, old.shape, old.dtype) == old).all()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        longer,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no array at all"),
        lambda path: np.save(path, np.asfortranarray(noise((6, 4)))),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        lambda path: path.write_bytes(b"\x93NUMPY\x09\x00" + path.read_bytes()[8:]),
        lambda path: np.save(path, noise((4, 6))),
        lambda path: np.save(path, noise((6, 4), np.int8)),
    ],
    ids=["cut", "longer", "empty", "text", "columns", "objects", "version", "shape", "dtype"],
)
def test_damage_is_noticed_at_opening(tmp_path, damage):
    path = tmp_path / "x.npy"
    written(path, noise((6, 4)))
    damage(path)
    with pytest.raises((ValueError, EOFError)):
        arrays.read(path, (6, 4), np.uint8)


# --- the image cache ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A folder of 24 images in two classes."""
    for number in range(24):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def manifest_of(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data_manifest.build_manifest(DataParams(data=str(folder)))


LOADER = textwrap.dedent(
    """
    import sys, time, warnings
    warnings.simplefilter("ignore")
    import numpy as np
    from pathlib import Path
    from cxr.data import loading, manifest as data_manifest
    from cxr.core.params import DataParams
    folder, cache, decoding, go = map(Path, sys.argv[1:])
    manifest = data_manifest.build_manifest(DataParams(data=str(folder)))
    decode = loading.square
    def slow(*arguments):
        decoding.touch()
        while not go.exists():
            time.sleep(0.01)
        return decode(*arguments)
    loading.square = slow
    images = loading.load_images(manifest, root=folder, size=16, cache=cache)
    print("sum", np.asarray(images).sum())
    """
)


def loader(folder, cache, decoding, go):
    """A process that loads the images of `folder`: it touches `decoding` at the first and waits for `go`."""
    return subprocess.Popen(
        [sys.executable, "-c", LOADER, *map(str, (folder, cache, decoding, go))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(loading.__file__).parents[2])},
    )


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.01)


def test_while_another_process_decodes_one_waits_and_decodes_nothing(files, tmp_path, monkeypatch, capsys):
    manifest, cache = manifest_of(files), tmp_path / "cache"
    expected = loading.load_images(manifest, root=files, size=16, cache=None)
    process = loader(files, cache, tmp_path / "decoding", tmp_path / "go")
    until((tmp_path / "decoding").exists)
    monkeypatch.setattr(loading, "square", lambda *_: pytest.fail("decoded again"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loading.load_images, manifest, root=files, size=16, cache=cache)
        until(lambda: "waiting for another process" in capsys.readouterr().out)
        (tmp_path / "go").touch()
        assert (np.asarray(waiting.result(60)) == expected).all()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out == f"sum {expected.sum()}\n"
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def test_a_killed_process_leaves_no_entry_and_no_lock_that_holds(files, tmp_path):
    process = loader(files, tmp_path / "cache", tmp_path / "decoding", tmp_path / "never")
    until((tmp_path / "decoding").exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "cache").glob("images-*.npy"))
    # what SIGKILL cannot but leave, the next one clears away
    assert list((tmp_path / "cache").glob(".images-*.npy"))
    manifest = manifest_of(files)
    images = loading.load_images(manifest, root=files, size=16, cache=tmp_path / "cache")
    assert (np.asarray(images) == loading.load_images(manifest, root=files, size=16, cache=None)).all()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_a_bad_file_or_a_full_disk_leaves_nothing_in_the_cache(files, tmp_path, monkeypatch):
    manifest = manifest_of(files)
    path = files / manifest["path"].iloc[-1]
    content = path.read_bytes()
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=f"1 of 24 images cannot be used: .*{path.name}"):
        loading.load_images(manifest, root=files, size=16, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    path.write_bytes(content)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cache: cannot write the image cache \(No space left.*CXR_CACHE"):
        loading.load_images(manifest, root=files, size=16, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_bounded_and_the_least_recently_used_goes_first(files, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    manifest = manifest_of(files)

    def load(size):
        before = set(cache.glob("*.npy"))
        images = loading.load_images(manifest, root=files, size=size, cache=cache)
        assert Path(images.filename).exists()
        return images, before - set(cache.glob("*.npy"))

    images, _ = load(16)
    for size, age in ((17, 500), (18, 400)):
        os.utime(load(size)[0].filename, (time.time() - age,) * 2)
    os.utime(images.filename, (time.time() - 600,) * 2)
    other = cache / "weights.npz"
    other.write_bytes(b"x" * 100_000)  # not an entry
    monkeypatch.setenv("CXR_CACHE_GIB", str((24 * (16**2 + 18**2 + 19**2) + 1000) / 2**30))
    assert load(16)[1] == set()  # a hit: now 17 is the oldest
    assert images.shape == (24, 16, 16)
    _, gone = load(19)
    assert len(gone) == 1 and len(list(cache.glob("*.npy"))) == 3
    assert load(16)[1] == load(18)[1] == load(19)[1] == set()

    # One entry larger than all that is allowed is kept; who reads from an evicted one may go on.
    monkeypatch.setenv("CXR_CACHE_GIB", "0")
    kept, gone = load(20)
    assert len(gone) == 3 and list(cache.glob("*.npy")) == [Path(kept.filename)]
    assert images[:].shape == (24, 16, 16) and other.exists()

    for text in ("-1", "much", "nan", "inf"):
        monkeypatch.setenv("CXR_CACHE_GIB", text)
        with pytest.raises(InputError, match="CXR_CACHE_GIB.*" + text):
            load(21)


def test_loading_holds_no_more_than_the_images_in_work(files, tmp_path):
    manifest = manifest_of(files)
    copies = pd.concat([manifest.assign(image_id=manifest["image_id"] + f"-{k}") for k in range(20)])
    whole = len(copies) * 256**2
    load = functools.partial(loading.load_images, copies, root=files, size=256, cache=tmp_path / "cache")
    assert peak_memory(load) < whole / 3
    assert load().nbytes == whole


# --- locks --------------------------------------------------------------------------------------------------


def test_a_lock_is_had_by_one_at_a_time(tmp_path):
    inside, most, waits = [], [], []

    def work():
        for _ in range(30):
            with locked(tmp_path / "x.lock", lambda: waits.append(1)):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 120 and max(most) == 1 and waits
    assert not list(tmp_path.iterdir())


def test_without_locks_it_says_so(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(OSError, match="No locks"), locked(tmp_path / "x.lock", list):
        pytest.fail("went on without the lock")


# --- training reads by batches ------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_data_and_predictions_are_the_same_from_disk(tmp_path, monkeypatch):
    from cxr.attribution import explaining
    from cxr.core.params import TrainParams
    from cxr.models import build
    from cxr.training import features, fitting, stages

    array, labels = noise((38, 64, 64)), np.arange(38, dtype=np.int32) % 3
    rows = written(tmp_path / "x.npy", array)
    settings = TrainParams(architecture="CompactResNetV2", image_size=64, batch_size=8, weights="none")

    def epochs(x):
        dataset = fitting.dataset((x, labels), settings, training=True)
        return [list(dataset.as_numpy_iterator()) for _ in range(2)]

    stages.seed_everything(0)
    for found, expected in zip(epochs(rows), epochs(array), strict=True):
        assert [len(x) for x, _ in found] == [8] * 4 + [6]
        for (x, y), (x2, y2) in zip(found, expected, strict=True):
            assert (x == x2).all() and (y == y2).all()
            assert all((image[..., 0] == array).all(axis=(1, 2)).any() for image in x)
    model = build.build(settings.architecture, n_classes=3, image_size=64)
    whole = model.predict(array[..., None], batch_size=8, verbose=0)
    monkeypatch.setattr(features, "_OUTPUT_BYTES", 20 * 3 * 4)  # blocks of two batches
    assert (stages.predict(model, rows, 8) == whole).all()
    maps = [
        explaining.attribute(model, images, labels[:20], layer="penultimate", methods=["layercam"], batch_size=32)[
            "layercam"
        ]
        for images in (rows[:20], array[:20])
    ]
    assert (maps[0] == maps[1]).all() and maps[0].any()
    network = build.to_features(model)
    pooled = features.pooled(network, rows, settings)
    assert type(pooled) is np.ndarray
    monkeypatch.setattr(features, "_IN_MEMORY", 1000)
    stored = features.pooled(network, rows, settings)
    assert type(stored) is np.memmap and (stored == pooled).all()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="TMPDIR"):
        features.pooled(network, rows, settings)
