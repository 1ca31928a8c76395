"""Which image files lie below a folder, and what else lies there: masks, copies, thumbnails, links, deep nesting.

A public data set often holds more than its images. What looks like something else is named before anything runs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from cxr.core.errors import InputError, is_text, some
from cxr.data.formats import SUFFIXES

MAX_DEPTH = 100  # folders within folders
_SYSTEM = {
    *("__macosx", "__pycache__", "lost+found", "system volume information", "$recycle.bin", "#recycle"),
    *("@eadir", "@tmp", "@recycle", "#snapshot"),  # of network storage
}
_THUMBNAILS = re.compile(r"(thumb|thumbs|thumbnail|thumbnails|preview|previews)", re.IGNORECASE)
# Words that name pictures about images: a folder or file with one of them seldom holds radiographs.
_ABOUT = {
    *("mask", "masks", "seg", "segs", "segmentation", "segmentations", "segmented", "contour", "contours"),
    *("label", "labels", "labelmap", "labelmaps", "annotation", "annotations", "annot", "annots", "annotated"),
    *("gt", "gts", "groundtruth", "groundtruths", "roi", "rois", "bbox", "bboxes", "boxes", "landmarks"),
    *("overlay", "overlays", "heatmap", "heatmaps", "gradcam", "saliency", "attention", "prediction"),
    *("predictions", "edges", "outlines"),
}


class Walk:
    """The image files below folders of one data set. A folder that is reached twice is refused.

    Args:
        root: paths are relative to it.
        image_folder: take only files below folders of this name; empty: all.
    """

    def __init__(self, root: Path, image_folder: str = "") -> None:
        self.root, self._image_folder = root, image_folder
        self._seen = {_identity(folder): folder for folder in (root, *root.resolve().parents)}
        self._thumbnails: list[Path] = []

    def files(self, folder: Path) -> list[str]:
        """Paths of the image files below `folder`, with "/", sorted. Links to folders are followed.

        Hidden files, and folders of systems and thumbnails, are left out.

        Raises InputError for a folder that cannot be read or is reached twice, for folders nested deeper than
        MAX_DEPTH, and for file names that are not UTF-8.
        """
        found = []
        waiting = [(folder, 0)]
        while waiting:
            parent, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise InputError(
                    f"{folder}: folders are nested more than {MAX_DEPTH} deep: move images up, or the folder away"
                )
            if parent != self.root:
                self._enter(parent)
            try:
                with os.scandir(parent) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
                    folders = [entry for entry in entries if _is_folder(entry)]
            except OSError as error:
                raise InputError(f"{parent}: the folder cannot be read ({error.strerror})") from None
            for entry in folders:
                if is_thumbnails(entry.name):
                    self.leave_out(parent / entry.name)
                elif not is_hidden(entry.name):
                    waiting.append((parent / entry.name, depth + 1))
            if self._image_folder and self._image_folder not in parent.relative_to(folder).parts:
                continue
            names = {entry.name for entry in folders}
            found += [
                (parent / entry.name).relative_to(self.root).as_posix()
                for entry in entries
                if entry.name not in names and _is_image(entry.name)
            ]
        undecodable = [path.encode(errors="backslashreplace").decode() for path in found if not is_text(path)]
        if undecodable:
            raise InputError(
                f"{self.root}: {len(undecodable)} file names are not UTF-8: {some(undecodable)}: rename them",
                items=undecodable,
            )
        return sorted(found)

    def leave_out(self, folder: Path) -> None:
        """Remember a folder of thumbnails for `warn`."""
        self._thumbnails.append(folder)

    def warn(self) -> None:
        """Warn of the folders of thumbnails that were left out."""
        if self._thumbnails:
            names = [path.relative_to(self.root).as_posix() for path in self._thumbnails]
            warnings.warn(
                f"{self.root}: {len(names)} folders of thumbnails are left out: {some(names)}", stacklevel=5
            )

    def _enter(self, folder: Path) -> None:
        try:
            identity = _identity(folder)
        except OSError as error:
            raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from None
        other = self._seen.setdefault(identity, folder)
        if other != folder:
            where = "a folder above it" if other in self.root.resolve().parents else other
            raise InputError(
                f"{folder} is a link to {where if other != self.root else 'the data folder'}, whose images would "
                "count twice: remove the link"
            )


def refuse_pictures_about_images(root: Path, paths: Sequence[str], *, classes: Collection[str] = ()) -> None:
    """Raise InputError if folders or files are named as masks, annotations or the like.

    Args: classes: names of folders that the user calls classes (`label_map`), whatever they sound like.
    """
    inside = defaultdict(list)
    for path in paths:
        about = [part for part in PurePosixPath(path).parts[:-1] if part not in classes and _is_about(part)]
        if about:
            inside[about[0]].append(path)
    if inside:
        items = [path for found in inside.values() for path in found]
        names = ", ".join(f"{name} ({len(found)})" for name, found in sorted(inside.items()))
        raise InputError(
            f"{root}: {len(items)} of {len(paths)} images lie in folders that are named as masks or annotations: "
            f"{names}: move these folders away, or set image_folder to the name of the folders of images (name a "
            "class that is called so in label_map)",
            items=items,
        )
    stems = {PurePosixPath(path).stem.lower() for path in paths}
    beside = [path for path in paths if _without_word(PurePosixPath(path).stem) & stems]
    if beside:
        raise InputError(
            f"{root}: {len(beside)} of {len(paths)} files are named as masks or annotations of others: "
            f"{some(beside)}: move them away, or list the images in a table",
            items=beside,
        )


def warn_of_equal_names(root: Path, paths: Sequence[str], owners: Sequence[str]) -> None:
    """Warn if files of one name lie in several folders of one owner: one folder may hold masks or copies.

    Args: owners: of each path the class, and the patient if known.
    """
    places = defaultdict(list)
    for path, owner in zip(paths, owners, strict=True):
        places[owner, PurePosixPath(path).name].append(path)
    several = [found for found in places.values() if len(found) > 1]
    if several:
        warnings.warn(
            f"{root}: {sum(map(len, several))} of {len(paths)} images have the name of one in another folder of "
            f"their class, such as {' and '.join(several[0][:2])}: if one holds masks or copies, move it away or "
            "set image_folder; if the folders are patients, set patient_pattern",
            stacklevel=5,
        )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is ignored by its name: hidden ones, and those of operating systems."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_thumbnails(name: str) -> bool:
    """Whether a folder is named as one of thumbnails."""
    return _THUMBNAILS.fullmatch(name) is not None


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _words(name: str) -> list[str]:
    """The words of a name, in lower case: "LungMasks_png" gives lung, masks, png."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def _is_about(name: str) -> bool:
    words = _words(name)
    pairs = {a + b for a, b in zip(words, words[1:], strict=False)}
    # "label_1" and the like are classes
    numbered = {a for a, b in zip(words, words[1:], strict=False) if b.isdigit() and a.startswith("label")}
    return any(
        word in _ABOUT or word.endswith(("mask", "masks")) for word in words if word not in numbered
    ) or bool(pairs & {"groundtruth", "boundingboxes", "boundingbox"})


def _without_word(stem: str) -> set[str]:
    """The rest of a stem that begins or ends with a word for masks, in lower case (a_lung_mask: a_lung, a)."""
    words = "|".join(sorted(_ABOUT))
    if found := re.fullmatch(rf"(?:{words})[_\-. ]+(.+)", stem.lower()):
        return {found[1]}
    if found := re.fullmatch(rf"(.+?)[_\-. ]+(?:{words})", stem.lower()):
        return {found[1], re.sub(r"[_\-. ]+[^_\-. ]+$", "", found[1])}
    return set()


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
