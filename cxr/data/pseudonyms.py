"""Pseudonyms: neutral names for files and patients in all that is stored (docs/privacy.md).

`replaced` maps the rows of a manifest to their neutral twin, before anything else reads them:

    image-00042-5be0c1d2e3f4a5b6    image_id and path: the number of the image, and a keyed hash of its path
    patient-0007-1f3c8d2e90ab4c5d   patient_id: the number of the patient, and a keyed hash of the id
    mask-90ab4c5d1f3c8d2e           lesion_mask and lung_mask: a keyed hash of the path

A hash is the first 64 bits of an HMAC-SHA256: the same key gives the same hash in every study. The numbers keep
the order of the names. So splits, batches and resampling are the same with and without pseudonyms.

The key and the real names lie in a private folder of the user (`private`), in files that only the user can read:
`key` and, for each data set, `names/<hash>.csv`. What is stored holds `pseudonyms:<hash>` in place of the path of
the data. `path_of` and `Folder` find the files by it.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.core import arrays
from cxr.core.errors import InputError, some
from cxr.core.params import DataParams
from cxr.data.dicom import is_dicom
from cxr.data.formats import Unusable
from cxr.data.tables import MASKS

PREFIX = "pseudonyms:"
_NAME = re.compile(r"(image|mask|patient)-(?:\d+-)?([0-9a-f]{16})")
_DICOM_SUFFIXES = (".dcm", ".dicom")


class PrivateError(InputError):
    """Bad input of a data set that gets pseudonyms; the message has real names. It is for a terminal only."""


@dataclass(frozen=True)
class Folder:
    """The folder of a data set with pseudonyms: `folder / name` is the path of the real file.

    data : what stands for the data set in all that is stored, `pseudonyms:<hash>`; the folder's text is this.
    path : the real folder.
    originals : `image-<hash>`, `mask-<hash>` and `patient-<hash>` to the real path or id.
    """

    data: str
    path: Path
    originals: Mapping[str, str]

    def __truediv__(self, name: str) -> Path:
        return self.path / self.original(name)

    def __str__(self) -> str:
        return self.data

    def original(self, name: str) -> str:
        """The real path or id; a name that is no pseudonym is itself. Raises Unusable for an unknown one."""
        found = _NAME.fullmatch(name)
        if not found:
            return name
        if (known := self.originals.get(f"{found[1]}-{found[2]}")) is None:
            raise Unusable(f"the names of {self.data} in CXR_PRIVATE do not have it: it was made with another key")
        return known

    def undo(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the neutral manifest with the real `path` and `patient_id`. Never store them."""
        return rows.assign(**{name: rows[name].map(self.original) for name in ("path", "patient_id")})


def private() -> Path:
    """The folder of the key and the names: `$CXR_PRIVATE`, or `$XDG_CONFIG_HOME/cxr/pseudonyms` (`~/.config`)."""
    if own := os.environ.get("CXR_PRIVATE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config").absolute() / "cxr" / "pseudonyms"


def is_neutral(data: str) -> bool:
    """Whether a value of the parameter `data` is `pseudonyms:<hash>`."""
    return data.startswith(PREFIX)


def path_of(data: str) -> Path:
    """The absolute path that the parameter `data` stands for. Raises InputError if its names are not here."""
    if not is_neutral(data):
        return Path(data).expanduser().absolute()
    names = _read_names(data)
    if "data" not in names:
        raise InputError(
            f"data: {private()} does not know {data}: give the folder or the table itself; on another machine, "
            "set CXR_PRIVATE to a copy of that folder"
        )
    return Path(names["data"])


def folder(root: Path, data: str) -> Path | Folder:
    """The folder of the images: `root` itself, or, if `data` is `pseudonyms:<hash>`, one that knows real names."""
    return Folder(data, root, _read_names(data)) if is_neutral(data) else root


def neutral(settings: Any) -> Any:
    """`settings` as they may be stored: `data` is `pseudonyms:<hash>` if the data set has pseudonyms.

    It has them with `pseudonymise: true`, and with `auto` if it had them before (`replaced` has decided). The same
    settings come back in all other cases, and for settings without `data`.
    """
    data, choice = getattr(settings, "data", ""), getattr(settings, "pseudonymise", "auto")
    if data in ("", "phantom") or is_neutral(data) or choice is False:
        return settings
    key = _key(make=choice is True)
    if key is None:
        return settings
    name = PREFIX + _hash(key, "data", str(path_of(data)))
    if not _names_file(name).is_file():
        if choice == "auto":
            return settings
        _keep_names(name, {"data": str(path_of(data))})
    return settings.model_copy(update={"data": name})


def replaced(
    list_rows: Callable[[], pd.DataFrame], settings: DataParams, root: Path
) -> tuple[pd.DataFrame, Path | Folder]:
    """The rows of a data set sorted by image_id, with pseudonyms if `settings` ask for them, and their folder.

    With `pseudonymise: auto`, one DICOM file among the images is enough. The key is made on first use. What
    `list_rows` warns of loses the path of the data.

    Args:
        list_rows: makes image_id, path, label, patient_id and other columns, str; from `folders` or `tables`.
        root: the folder that paths are relative to.

    Raises: InputError of `list_rows`; as PrivateError if the data set has pseudonyms. With `pseudonyms:<hash>` as
        `data`, that is in the notebooks of a study, its message has no names. Also if the key cannot be used.
    """
    trouble = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            rows = list_rows().sort_values("image_id", kind="stable", ignore_index=True)
        except InputError as error:
            trouble = error
    stored = neutral(settings)
    hides = is_neutral(stored.data)
    if not hides and settings.pseudonymise == "auto":
        hides = _has_dicom(root) if trouble else any(_starts_as_dicom(root / path) for path in rows["path"])
        stored = neutral(settings.model_copy(update={"pseudonymise": True})) if hides and not trouble else stored
    for one in said:
        text = str(one.message)
        if hides:
            if names := getattr(one.message, "items", []):
                text = text.replace(f": {some(names)}", "")
            for path in (str(path_of(settings.data)), str(root)):
                text = text.replace(path, stored.data if is_neutral(stored.data) else "the data")
        warnings.warn_explicit(text, one.category, one.filename, one.lineno)
    if trouble and is_neutral(settings.data):
        raise InputError(
            f"data: the images of {settings.data} cannot be listed as before: run `cxr check` with the folder or "
            "the table itself, which says what is wrong (here names are left out: pseudonymise)"
        )
    if trouble:
        raise PrivateError(str(trouble), items=trouble.items) if hides else trouble
    if not hides:
        return rows, root
    rows, originals = twin(rows, _key(make=not is_neutral(settings.data)))
    _keep_names(stored.data, {"data": str(path_of(settings.data)), **originals})
    return rows, Folder(stored.data, root, originals)


def twin(rows: pd.DataFrame, key: bytes) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows with pseudonyms, and what they stand for (`Folder.originals`).

    A patient id that is the image id (data without patient ids) stays the image's name.

    Args:
        rows: sorted by image_id. key: of the HMAC.
    """
    originals: dict[str, str] = {}

    def named(kind: str, values: Iterable[str], *, numbered: bool) -> dict[str, str]:
        names = {}
        values = list(values)
        for number, value in enumerate(values, start=1):
            short = f"{kind}-{_hash(key, kind, value)}"
            originals[short] = value
            names[value] = f"{kind}-{number:0{len(str(len(values)))}d}-{short[-16:]}" if numbered else short
        return names

    images = rows["path"].map(named("image", rows["path"], numbered=True))
    own = (rows["patient_id"] == rows["image_id"]).all()
    ids = sorted(set(rows["patient_id"]))
    patients = images if own else rows["patient_id"].map(named("patient", ids, numbered=True))
    found = rows.assign(image_id=images, path=images, patient_id=patients)
    for name in (name for name in MASKS if name in rows):
        known = named("mask", sorted(set(rows[name]) - {""}), numbered=False)
        found[name] = [known.get(path, "") for path in rows[name]]
    return found, originals


def private_files(data: str) -> list[Path]:
    """The files that `path_of` and `replaced` read for `data`: a worker needs them too. Empty for a plain path."""
    return [private() / "key", _names_file(data)] if is_neutral(data) else []


def notice(settings: DataParams) -> str:
    """What a person should know of the names before a study: for a terminal only, as it names the private folder.

    Call it after the images are listed. Empty for the phantom, and with `pseudonymise: false`.
    """
    if settings.data == "phantom" or settings.pseudonymise is False:
        return ""
    stored = neutral(settings)
    if not is_neutral(stored.data):
        return (
            "names: patient ids and file names will be stored as they are (pseudonymise: auto, and no file is "
            "DICOM): pseudonymise: true replaces them (docs/privacy.md)"
        )
    why = " (pseudonymise: auto, as files are DICOM)" if settings.pseudonymise == "auto" else ""
    return (
        f"names: what is stored has pseudonyms for patients and files{why}. {private() / 'key'} is their key, and "
        f"{_names_file(stored.data)} says which is which: keep both to yourself (docs/privacy.md)"
    )


def explained(message: str) -> str:
    """A message for the terminal; if it has pseudonyms, with the place of the real names."""
    if not _NAME.search(message):
        return message
    return f"{message} (real names: {private() / 'names'})"


def refuse_inside(place: Path, what: str) -> None:
    """Raise InputError if the key would lie in `place`, a folder that `what` names ("the MLflow store")."""
    if (private() / "key").resolve().is_relative_to(place.resolve()):
        raise InputError(
            f"CXR_PRIVATE: {private()} lies inside {what}, {place}: whoever gets that folder would get the key of "
            "the pseudonyms too: choose a folder outside"
        )


def _hash(key: bytes, kind: str, value: str) -> str:
    return hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:16]


def _key(*, make: bool) -> bytes | None:
    """The key; a missing one is made, or, unless `make`, None. Raises InputError for a bad one."""
    path = private() / "key"
    if not path.exists():
        if not make:
            return None
        _make_folder(path.parent)
        with arrays.locked(path.with_name("key.lock"), lambda: None):
            if not path.exists():
                _write(path, secrets.token_hex(32) + "\n")
    try:
        text, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the key of the pseudonyms cannot be read ({error}): restore it") from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{path}: others can read the key of the pseudonyms: run `chmod 600` on it")
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise InputError(
            f"{path}: not a key of pseudonyms (64 hexadecimal digits): restore it, or remove it to have a new "
            "one, which gives other pseudonyms"
        )
    return bytes.fromhex(text)


def _names_file(data: str) -> Path:
    return private() / "names" / f"{data.removeprefix(PREFIX)}.csv"


def _read_names(data: str) -> dict[str, str]:
    path = _names_file(data)
    if not re.fullmatch(r"[0-9a-f]{16}", path.stem) or not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return dict(csv.reader(file))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the names cannot be read ({error}): remove the file, and run again") from None


def _keep_names(data: str, names: Mapping[str, str]) -> None:
    """Add names to those that the file of a data set has: other settings list other files of it."""
    path = _names_file(data)
    _make_folder(path.parent.parent)
    _make_folder(path.parent)
    with arrays.locked(path.with_suffix(".lock"), lambda: None):
        known = _read_names(data)
        if known.items() >= names.items():
            return
        _write(path, known | names)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"CXR_PRIVATE: {path} cannot be made ({error.strerror}): choose another folder") from None


def _write(path: Path, content: str | Mapping[str, str]) -> None:
    """Write a file that only the user can read, whole or not at all: a text, or a table of two columns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(number, "w", encoding="utf-8", newline="") as file:
            if isinstance(content, str):
                file.write(content)
            else:
                csv.writer(file).writerows(content.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}): set CXR_PRIVATE to another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _starts_as_dicom(path: Path) -> bool:
    """Whether a regular file is DICOM by its first bytes; files that cannot be read are reported elsewhere."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(512))
    except (OSError, ValueError):
        return False


def _has_dicom(root: Path) -> bool:
    """Whether a name below `root` ends as those of DICOM files do, where the images cannot be listed."""
    folders = [root]
    while folders:  # not os.walk, which fails in deeply nested folders
        with suppress(OSError):
            for entry in os.scandir(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.name.lower().endswith(_DICOM_SUFFIXES):
                    return True
    return False
