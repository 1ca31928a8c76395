"""Pseudonyms: what is stored has no name of a patient or file, and the results are the same."""

import base64
import io
import json
import os
import stat
import subprocess
import sys
import urllib.parse
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from conftest import PROJECT
from data_files import grouped, noise, params, put, write_folder, write_table
from pydicom import dcmread
from test_images import dicom

from cxr.cli import main
from cxr.core.errors import InputError
from cxr.core.params import DriftParams, StudyParams, TrainParams, read_overrides
from cxr.data import dataset, loading, pseudonyms
from cxr.data import manifest as data_manifest
from cxr.data.checks import checklist, page
from cxr.pair import images as pair_images
from cxr.statistics import bootstrap

ON, OFF = {"pseudonymise": True}, {"pseudonymise": False}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A private folder without a key."""
    monkeypatch.setenv("CXR_PRIVATE", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def clinic(tmp_path, own):
    """A folder whose name says more than it should, with class folders."""
    return write_folder(tmp_path / "Dr-Zabriskie")


def named_dicom(seed, **tags):
    """A DICOM file that names its patient; pydicom warns of its UID and quotes it."""
    found = dcmread(io.BytesIO(dicom(noise(seed, (40, 40)).astype(np.uint16), WindowCenter=128, WindowWidth=256)))
    for name, value in {"PatientName": "Kowalczyk^Piotr", "PatientID": "QX-55501", **tags}.items():
        setattr(found, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.StudyInstanceUID = "Kowalczyk.Piotr"
        stream = io.BytesIO()
        found.save_as(stream)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------ the same results


@pytest.mark.parametrize(
    "more",
    [{}, {"max_images_per_class": 7}, {"split_seed": 3}, {"on_bad_image": "skip", "max_skipped_fraction": 0.9}],
)
@pytest.mark.parametrize("with_patients", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_pseudonyms_change_names_and_nothing_else(clinic, more, with_patients):
    make = grouped if with_patients else params
    put(clinic / "ill" / "p000_9.png", b"no image at all") if "on_bad_image" in more else None
    named = data_manifest.build_manifest(make(clinic, **OFF, **more))
    neutral = data_manifest.build_manifest(make(clinic, **ON, **more))
    same = ["label", "split", "sha256"]
    pd.testing.assert_frame_equal(named[same], neutral[same])
    root = data_manifest.data_root(make(clinic, **ON))
    assert [str(root / path) for path in neutral["path"]] == [str(clinic / path) for path in named["path"]]
    pd.testing.assert_frame_equal(root.undo(neutral)[["path"]], named[["path"]])
    ranks = [frame["patient_id"].rank(method="dense").tolist() for frame in (named, neutral)]
    assert ranks[0] == ranks[1] and neutral["image_id"].is_monotonic_increasing
    assert (neutral["patient_id"] == neutral["image_id"]).all() is np.bool_(not with_patients)
    weights = [bootstrap.patient_weights(frame["patient_id"], n_boot=20) for frame in (named, neutral)]
    np.testing.assert_array_equal(*weights)
    pixels = [
        loading.load_images(frame, root=folder, size=8, cache=None)
        for frame, folder in ((named, clinic), (neutral, root))
    ]
    np.testing.assert_array_equal(*pixels)
    assert len(neutral.attrs["skipped"]) == len(named.attrs["skipped"]) == ("on_bad_image" in more)
    text = data_manifest.manifest_text(neutral) + json.dumps(neutral.attrs)
    assert not [word for word in ("p0", "p1", "Zabriskie", ".png", "ill/") if word in text]


@pytest.mark.filterwarnings("ignore")
def test_splits_that_vary_are_the_same(clinic):
    study = StudyParams(data=str(clinic), patient_pattern=r"(p\d+)_", vary_split=True, seed=[0, 5])
    both = []
    for choice in (OFF, ON):
        settings = study.model_copy(update=choice)
        first = data_manifest.build_manifest(settings, vary=0)
        both.append(data_manifest.with_splits_of(first, settings, 5)["split"].tolist())
    assert both[0] == both[1] != first["split"].tolist()


def test_tables_masks_and_groups(tmp_path, own):
    folder = write_folder(tmp_path / "images")
    rows = []
    for k, file in enumerate(sorted(folder.rglob("*.png"))):
        put(tmp_path / "masks" / f"{file.stem}_Meier.png", np.full((12, 9), 255, np.uint8)) if k % 2 else None
        mask = f"masks/{file.stem}_Meier.png" if k % 2 else ""
        path = file.relative_to(tmp_path).as_posix()
        rows.append((path, file.parent.name, f"Meier{file.stem[:4]}", mask, "fm"[k % 2], f"Dr. Zabriskie {k}"))
    columns = ("path", "label", "patient_id", "lung_mask", "sex", "physician")
    table = write_table(tmp_path / "Meier.csv", rows, columns)
    named, neutral = (data_manifest.build_manifest(params(table, groups=["sex"], **how)) for how in (OFF, ON))
    same = ["label", "split", "sha256", "lung_mask_sha256", "group_sex"]
    pd.testing.assert_frame_equal(named[same], neutral[same])
    assert (neutral["lung_mask"] != "").tolist() == (named["lung_mask"] != "").tolist()
    root = data_manifest.data_root(params(table, **ON))
    loading.check_images(neutral, root)
    inside = [loading.load_regions(m, root=r, size=8)["lung"] for m, r in ((named, tmp_path), (neutral, root))]
    np.testing.assert_array_equal(*inside)
    assert inside[0].any() and "Meier" not in data_manifest.manifest_text(neutral)
    found = [checklist.run(params(table, **how)) for how in (OFF, ON)]
    variables = [[f.table["variable"].tolist() for f in one.findings if f.check == "metadata"] for one in found]
    assert variables[0] == variables[1] and variables[0]
    assert "Meier" not in page.page(found[1]) and "Zabriskie" not in page.page(found[1])


def test_one_key_gives_one_patient_one_pseudonym_in_every_study(tmp_path, own):
    def ids(name, patients):
        folder = tmp_path / name
        rows = []
        for k, patient in enumerate(patients):
            put(folder / f"{name}{k}.png", noise(k))
            rows.append((f"{name}{k}.png", "ab"[k % 2], patient))
        settings = params(write_table(folder / "t.csv", rows), **ON)
        listed = data_manifest.list_images(settings, labelled=True)
        back = data_manifest.data_root(settings).undo(listed)["patient_id"]
        return dict(zip(back, listed["patient_id"].str.rsplit("-", n=1).str[-1], strict=True))

    one, two = ids("one", ["7", "Zoe", "Ada"]), ids("two", ["Ada", "Bob", "7"])
    assert one["Ada"] == two["Ada"] and one["7"] == two["7"] and len({*one.values(), *two.values()}) == 4
    (own / "key").unlink()
    assert ids("one", ["7", "Zoe", "Ada"])["Ada"] != one["Ada"]


def test_a_patient_s_pseudonym_is_the_hmac_of_its_id(tmp_path, own):
    import hashlib
    import hmac

    own.mkdir()
    (own / "key").write_text("ab" * 32)
    (own / "key").chmod(0o600)
    put(tmp_path / "d" / "x.png", noise(0))
    table = write_table(tmp_path / "d" / "t.csv", [("x.png", "a", "Anna Meier")])
    listed = data_manifest.list_images(params(table, **ON), labelled=True)
    wanted = hmac.new(bytes.fromhex("ab" * 32), b"patient\0Anna Meier", hashlib.sha256).hexdigest()[:16]
    assert listed["patient_id"].tolist() == [f"patient-1-{wanted}"]


# -------------------------------------------------------------------------------------------------- what decides


def test_dicom_has_pseudonyms_unless_declined_and_others_if_asked(tmp_path, own):
    folder = tmp_path / "set"
    for k, label in enumerate("aabb"):
        put(folder / label / f"Meier{k}.png", noise(k))
    settings = {"labelled": False, "hashed": False}
    assert "Meier0" in str(data_manifest.list_images(params(folder), **settings))
    assert "no file is DICOM" in pseudonyms.notice(params(folder)) and not own.exists()
    put(folder / "a" / "Meier0.png", named_dicom(0))  # its content decides, not its name
    with pytest.warns(UserWarning, match="^pseudonyms:[0-9a-f]{16}: each file is treated as a separate patient"):
        assert "Meier" not in str(data_manifest.list_images(params(folder), **settings))
    assert "as files are DICOM" in pseudonyms.notice(params(folder))
    assert str(own / "key") in pseudonyms.notice(params(folder))
    assert "Meier0" in str(data_manifest.list_images(params(folder, **OFF), **settings))
    assert pseudonyms.notice(params(folder, **OFF)) == ""
    assert pseudonyms.neutral(params(folder, **OFF)).data == str(folder)


@pytest.mark.parametrize(("given", "meant"), [("auto", "auto"), ("true", True), (True, True), ("no", False)])
def test_values_of_the_parameter(given, meant):
    assert params(pseudonymise=given).pseudonymise is meant or meant == "auto"


def test_another_value_is_refused():
    with pytest.raises(InputError, match="pseudonymise: should be 'auto', True or False, got 'perhaps'"):
        StudyParams.check({"pseudonymise": "perhaps"}, where="x")


def test_the_phantom_has_none(own):
    manifest = data_manifest.build_manifest(params(phantom_images=30, **ON))
    assert manifest["path"].str.startswith("phantom://").all() and not own.exists()


# -------------------------------------------------------------------------------------------------- key and names


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.filterwarnings("ignore")
def test_only_the_user_reads_the_key_and_the_names(clinic, own):
    data_manifest.build_manifest(grouped(clinic, **ON))
    (names,) = (own / "names").glob("*.csv")
    for path, mode in ((own, 0o700), (names.parent, 0o700), (own / "key", 0o600), (names, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    assert {path.name for path in own.rglob("*")} == {"key", "names", names.name}
    (own / "key").chmod(0o640)
    with pytest.raises(InputError, match="key: others can read the key of the pseudonyms: run `chmod 600`"):
        data_manifest.build_manifest(grouped(clinic, **ON))


@pytest.mark.parametrize("content", [b"", b"secret", b"\xff\xfe", b"ab" * 31, b"AB" * 32])
def test_a_damaged_key_is_never_used(clinic, own, content):
    own.mkdir()
    (own / "key").write_bytes(content)
    (own / "key").chmod(0o600)
    with pytest.raises(InputError, match="key: "):
        data_manifest.build_manifest(grouped(clinic, **ON))


@pytest.mark.parametrize("where", ["store/keys", "store", "out/a"])
def test_a_key_in_the_store_is_refused(clinic, tmp_path, monkeypatch, capsys, where, new_store):
    monkeypatch.setenv("CXR_PRIVATE", str(tmp_path / where))
    new_store(tmp_path / "store")
    words = ["study", str(PROJECT / "params/smoke.yaml"), "--out", str(tmp_path / "out")]
    words += ["--tracking-uri", f"sqlite:///{tmp_path}/store/mlflow.db"]
    assert main.main([*words, "--set", f"data={clinic}", "pseudonymise=true"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "CXR_PRIVATE" in said and "lies inside" in said and "choose a folder outside" in said
    assert not list(tmp_path.rglob("key"))


def test_a_key_that_links_into_the_store_is_refused(tmp_path, own):
    put(tmp_path / "store" / "k", b"ab" * 32)
    own.mkdir()
    (own / "key").symlink_to(tmp_path / "store" / "k")
    with pytest.raises(InputError, match="lies inside the MLflow store"):
        pseudonyms.refuse_inside(tmp_path / "store", "the MLflow store")
    pseudonyms.refuse_inside(tmp_path / "elsewhere", "the MLflow store")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are not UTF-8")
@pytest.mark.filterwarnings("ignore")
def test_a_plan_names_no_folder(clinic, own, tmp_path, capsys):
    words = ["plan", str(PROJECT / "params/smoke.yaml"), "--output", str(tmp_path / "plan.yaml")]
    assert main.main([*words, "--set", f"data={clinic}", r"patient_pattern=(p\d+)_", "pseudonymise=true"]) == 0
    assert (
        "data: pseudonyms:" in (tmp_path / "plan.yaml").read_text() and str(own / "key") in capsys.readouterr().err
    )
    planted(tmp_path / "plan.yaml", ["Zabriskie"])


def test_a_private_folder_that_cannot_be_made(clinic, tmp_path, monkeypatch):
    put(tmp_path / "file", b"x")
    monkeypatch.setenv("CXR_PRIVATE", str(tmp_path / "file" / "sub"))
    with pytest.raises(InputError, match="CXR_PRIVATE: .* cannot be made .*: choose another folder"):
        data_manifest.build_manifest(grouped(clinic, **ON))


@pytest.mark.filterwarnings("ignore")
def test_without_the_names_nothing_is_guessed(clinic, own, tmp_path, monkeypatch):
    settings = grouped(clinic, **ON)
    manifest = data_manifest.build_manifest(settings)
    stored = pseudonyms.neutral(settings)
    monkeypatch.setenv("CXR_PRIVATE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="does not know pseudonyms:.*set CXR_PRIVATE"):
        data_manifest.data_root(stored)
    root = pseudonyms.Folder(stored.data, clinic, {})
    with pytest.raises(InputError, match="24 of 24 images cannot be used: image-01-.*made with another key"):
        loading.load_images(manifest, root=root, size=8, cache=None)


# ------------------------------------------------------------------------------------- what is said and shown


@pytest.mark.filterwarnings("ignore")
def test_what_a_notebook_of_a_study_says_names_nothing(clinic, own):
    stored = pseudonyms.neutral(grouped(clinic, **ON))
    manifest = data_manifest.build_manifest(stored)
    root = data_manifest.data_root(stored)
    assert str(root) == stored.data
    put(clinic / "ill" / "p000_0.png", b"changed")
    (clinic / "well" / "p100_0.png").unlink()
    with pytest.raises(InputError, match="2 of 24 images cannot be used: image-01-") as caught:
        loading.check_images(manifest, root)
    for moved in ("ill", "well"):
        (clinic / moved).rename(clinic.parent / f"gone-{moved}")
    with pytest.raises(
        InputError, match=r"data: the images of pseudonyms:.* cannot be listed as before"
    ) as listed:
        data_manifest.build_manifest(stored)
    clinic.rename(clinic.parent / "gone")
    with pytest.raises(InputError, match="data: pseudonyms:.* does not exist") as gone:
        data_manifest.build_manifest(stored)
    for error in (caught, listed, gone):
        text = str(error.value)
        assert not [word for word in ("p000", "p100", "Zabriskie", str(clinic.parent)) if word in text], text


def test_warnings_lose_names_of_files_and_folders(clinic, own):
    put(clinic / "Meier: stray.png", noise(0))
    with pytest.warns(UserWarning) as said:
        data_manifest.build_manifest(params(clinic, **ON))
    texts = [str(one.message) for one in said]
    beside, alone = texts
    assert beside.endswith(": 1 images beside the class folders are left out") and "separate patient" in alone
    assert all(
        text.startswith("pseudonyms:") and "Meier" not in text and "Zabriskie" not in text for text in texts
    )


@pytest.mark.filterwarnings("ignore")
def test_on_the_terminal_an_error_says_where_the_real_names_are(clinic, own, capsys):
    put(clinic / "ill" / "p000_0.png", b"no image")
    words = ["check", str(PROJECT / "params/smoke.yaml"), "--out", str(clinic.parent / "out")]
    assert main.main([*words, "--set", f"data={clinic}", r"patient_pattern=(p\d+)_", "pseudonymise=true"]) == 1
    said = capsys.readouterr().out
    assert "image-01-" in said and f"{own}/names/" in said and "p000_0" not in said
    shown = (clinic.parent / "out" / "checks.html").read_text(encoding="utf-8")
    assert "image-01-" in shown and not [word for word in ("p000", "Zabriskie", str(own)) if word in shown]
    for path in clinic.rglob("*.png"):
        put(path, noise(0))
    table = write_table(clinic / "manifest.csv", [("ill/p000_0.png", "a", "Ada"), ("ill/p000_0.png", "b", "Ada")])
    assert main.main([*words, "--set", f"data={table}", "pseudonymise=true"]) == 2  # and no page
    assert "listed more than once: ill/p000_0.png" in capsys.readouterr().err
    assert (clinic.parent / "out" / "checks.html").read_text(encoding="utf-8") == shown
    rows = [
        (f"{c}/p{k}0{p}_0.png", c, f"Ada{p % 2}", ("train", "val", "test")[p % 3])
        for k, c in enumerate(("ill", "well"))
        for p in range(6)
    ]
    write_table(table, rows, ("path", "label", "patient_id", "split"))
    assert main.main(["study", *words[1:], "--dry-run", "--set", f"data={table}", "pseudonymise=true"]) == 2
    error = capsys.readouterr().err
    assert f"(real names: {own}/names)" in error and "Ada" not in error


def test_a_run_made_by_hand_holds_no_path(clinic, tmp_path, monkeypatch, new_store, capsys):
    from cxr import tracking

    # as papermill would: its notebook holds the parameters as they were typed
    monkeypatch.setattr(
        tracking.run, "_papermill_output", lambda: put(tmp_path / "out.ipynb", str(clinic).encode())
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path / "store"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    settings = TrainParams(data=str(clinic), patient_pattern=r"(p\d+)_", name="hand", **ON)
    data = dataset.open(settings)
    run = tracking.start(
        "train", settings, inputs={"manifest": data.manifest_hash}, params={"data_root": data.root}
    )
    tracking.log_dataset(**data.describe())
    run.finish()
    stored = tracking.stored(run.run_id)
    assert stored.params["data"] == stored.params["data_root"] == pseudonyms.neutral(settings).data
    planted(tmp_path / "store", ["Zabriskie"])
    assert (
        f"notebook.ipynb is not logged, as it holds the path of the images; with `-p data {stored.params['data']}`"
        in (capsys.readouterr().out)
    )
    declined = settings.model_copy(update=OFF)
    print_of = tracking.fingerprint("train", declined, {"manifest": data.manifest_hash})
    assert print_of == run.fingerprint, "names enter the fingerprint by the manifest alone"


@pytest.mark.filterwarnings("ignore")
def test_burnt_in_text_is_counted(tmp_path, own, capsys):
    for k in range(8):
        tags = {"BurnedInAnnotation": "YES"} if k in (1, 4, 5) else {"BurnedInAnnotation": "NO"} if k == 2 else {}
        put(tmp_path / "set" / "ab"[k % 2] / f"{k}.dcm", named_dicom(k, **tags))
    found = checklist.run(params(tmp_path / "set"))
    (finding,) = [one for one in found.findings if one.check == "burnt-in text"]
    assert finding.text.startswith("3 of 8 images have text burnt into their pixels") and len(finding.files) == 3
    assert finding.severity == "warning"  # which a study prints
    settings = DriftParams(data=str(tmp_path / "set"))
    manifest, notes = pair_images.find(settings)
    assert [note for note in notes if note.startswith("3 of 8 images have text burnt")]
    assert not [note for note in notes if "Kowalczyk" in note or str(tmp_path) in note]


# ------------------------------------------------------------------------------------------------ a whole study


def spellings(name):
    """A name as bytes, as it may be stored."""
    plain = name.encode()
    yield from (plain, plain.lower(), name.encode("utf-16-le"), name.encode("utf-16-be"), name.encode("latin-1"))
    yield urllib.parse.quote(name).encode()
    yield json.dumps(name)[1:-1].encode()
    for skipped in range(3):  # the letters of base64 that depend on the name alone
        code = base64.b64encode(bytes(skipped) + plain)
        yield code[-(-skipped * 8 // 6) : len(code) - 4]


def contents(path):
    """The bytes of a file; of archives and tables, also what is in them."""
    content = path.read_bytes()
    yield content
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        yield str(table.schema.metadata).encode() + table.to_pandas().to_csv().encode()


def planted(folder, names):
    """Fail if one of the names is in a file below a folder, or in the name of one."""
    wanted = [(name, spelling) for name in names for spelling in spellings(name)]
    found = set()
    for path in Path(folder).rglob("*") if Path(folder).is_dir() else [Path(folder)]:
        parts = [str(path.relative_to(folder)).encode(), *(contents(path) if path.is_file() else [])]
        for content in parts:
            lower = content.lower()
            found |= {(name, str(path)) for name, spelling in wanted if spelling in content or spelling in lower}
    assert not found


def test_the_search_finds_what_is_there(tmp_path):
    name = "Jörg Zabriskie"
    for k, spelling in enumerate([*spellings(name), base64.b64encode(b"x" + name.encode() + b"yz")]):
        put(tmp_path / str(k) / "f", b"12" + spelling + b"34")
        with pytest.raises(AssertionError):
            planted(tmp_path / str(k), [name])
    pd.DataFrame({"a": [name] * 9}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(AssertionError):
        planted(tmp_path, [name])


PLANTED = [
    *("Kowalczyk", "QX-55501", "Nordklinik", "19470312", "Station-Olga"),  # in headers
    *("Dönhoff Archiv", "Meier_Anna", "Liste-Wanda"),  # folder, files, table
    *("PID-Zoller", "Dr. Obermayer"),  # in the table
]
STUDY = (
    "architecture=[tiny_nets:small]",
    "method=[layercam]",
    "transfer_epochs=1",
    "fine_tune_epochs=1",
    "jobs=1",
)
STUDY += ("extra_heads=0", "placebo=false", "checkpoint_every=0", "multiverse=false", "name=private")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """DICOM files whose headers, names, folder and table name patients; two patients' files are unusable."""
    folder = tmp_path_factory.mktemp("there") / "Dönhoff Archiv"
    rows = []
    for k in range(44):
        patient, label = k // 2 if k < 20 else k, ("ill", "well")[k // 2 % 2 if k < 20 else k % 2]
        tags = {"InstitutionName": "Nordklinik", "PatientBirthDate": "19470312", "StationName": "Station-Olga"}
        tags |= {"BurnedInAnnotation": "YES"} if k < 3 else {}
        content = named_dicom(k, **tags) if k != 43 else b"no image of Kowalczyk"
        put(folder / "pictures" / f"Meier_Anna{k:02d}.dcm", content)
        rows.append(
            (f"pictures/Meier_Anna{k:02d}.dcm", label, f"PID-Zoller{patient:02d}", f"Dr. Obermayer {k % 3}")
        )
    write_table(folder / "Liste-Wanda.csv", rows, ("path", "label", "patient_id", "physician"))
    return folder


def cxr(home, *words, code=0, command="cxr"):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{home}/store/mlflow.db"}
    environment |= {"CXR_CACHE": f"{home}/cache", "CXR_PRIVATE": f"{home}-private", "TMPDIR": f"{home}/tmp"}
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    words = [str(Path(sys.executable).parent / command), *map(str, words)]
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def tiny_study(hospital, home, how):
    values = [f"data={hospital}/Liste-Wanda.csv", f"pseudonymise={how}", "on_bad_image=skip", *STUDY]
    return cxr(home, "study", "params/smoke.yaml", "--out", home / "out", "--set", *values)


@pytest.fixture(scope="module")
def neutral_study(hospital, tmp_path_factory, new_store):
    """A tiny study of these files, by default with pseudonyms: its folder and what it said."""
    home = tmp_path_factory.mktemp("neutral")
    new_store(home / "store")
    return home, tiny_study(hospital, home, "auto")


@pytest.mark.slow
def test_a_study_stores_no_name(neutral_study):
    home, said = neutral_study
    planted(home, PLANTED)
    assert not [name for name in PLANTED if name in said]
    assert f"{home}-private/key is their key" in said.replace("\n", " ")
    assert "3 of 43 images have text burnt into their pixels" in said


@pytest.mark.slow
def test_a_training_is_the_same_without_pseudonyms(neutral_study, hospital, tmp_path, new_store, monkeypatch):
    """What follows it depends on names by the order of patients and images alone, which a fast test compares."""
    from cxr import tracking

    new_store(tmp_path / "store")
    known = read_overrides(STUDY, options={"data": hospital / "Liste-Wanda.csv", "pseudonymise": False})
    known |= {"on_bad_image": "skip", "architecture": known["architecture"][0], "seed": 0}
    given = {key: value for key, value in known.items() if key in TrainParams.model_fields}
    words = [str(word) for key, value in given.items() for word in ("-p", key, value)]
    words = ["notebooks/1_train.ipynb", str(tmp_path / "1.ipynb"), "-f", "params/smoke.yaml", *words]
    cxr(tmp_path, *words, command="papermill")
    results = []
    for home in (neutral_study[0], tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/store/mlflow.db")
        tracking.connect()
        (train,) = tracking.find("train", experiment="private")
        hashes = [one["weights_sha256"] for one in train.json("checkpoints.json").values()]
        timeless = {k: v for k, v in train.metrics.items() if "seconds" not in k and "memory" not in k}
        results.append((hashes, timeless))
    assert results[0] == results[1] and "auc_macro_after" in results[0][1]
    with pytest.raises(AssertionError):  # the search finds names where there are some
        planted(tmp_path, PLANTED)


@pytest.mark.slow
def test_cxr_drift_stores_no_name_and_a_study_goes_on(neutral_study, hospital):
    home, _ = neutral_study
    checkpoints = sorted((home / "store").rglob("checkpoints/*.keras"))
    before, after = (next(c for c in checkpoints if c.stem == name) for name in ("before", "after"))
    words = [
        "--images",
        "all",
        "--draws",
        1,
        "--n-boot",
        100,
        "--map-checks",
        4,
        "--out",
        home / "drift" / "d.parquet",
    ]
    (hospital / "pictures" / "Meier_Anna43.dcm").rename(hospital / "Meier_Anna43.txt")  # it is unusable
    (hospital / "Liste-Wanda.csv").rename(hospital.parent / "kept.csv")  # what is left is a folder of images
    try:
        said = cxr(home, "drift", before, after, hospital, "--labels", "none", *words)
    finally:
        (hospital.parent / "kept.csv").rename(hospital / "Liste-Wanda.csv")
        (hospital / "Meier_Anna43.txt").rename(hospital / "pictures" / "Meier_Anna43.dcm")
    planted(home, PLANTED)
    assert not [name for name in PLANTED if name in said]
    assert "3 of 43 images have text burnt into their pixels" in " ".join(said.split())
    assert "4 notebooks, 4 done already, 0 to run" in tiny_study(hospital, home, "auto")
