"""Validated parameters: one flat vocabulary, shared by the notebooks, papermill and `cxr study`.

A study file (`params/*.yaml`) is a flat mapping. It lists the three axes of the grid: `architecture`, `seed` and
`method`. A notebook runs one cell of the grid and takes one value of each. So the same file also drives one
notebook: `papermill 1_train.ipynb out.ipynb -f FILE -p architecture ResNet50V2 -p seed 0`. A notebook of a study
takes all keys of a study, and reads its own. Keys that nobody reads are refused.

All values pass `Params.check`, wherever they come from: a file (`read_yaml`), the command line (`read_overrides`),
or the cells of a notebook (`Params.from_notebook`).
"""

from __future__ import annotations

import ast
import difflib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cxr.core import architectures, methods, yaml_values
from cxr.core.errors import InputError, close_to, is_text, on_one_line
from cxr.core.files import parse

Architecture = Annotated[str, AfterValidator(architectures.check)]
Method = Literal[*methods.METHODS]
Score = Annotated[
    Literal[*methods.SCORES],
    Field(
        description="what maps explain of a class: its log-odds, its logit or its probability; see docs/metrics.md"
    ),
]
DEFAULT_METHODS: tuple[str, ...] = ("layercam", "gradcampp", "gradcampp_authors")

SCHEMA = "3"
"""Version of the names of parameters, columns, metrics and artifacts: the tag `cxr.schema` of every run."""
RENAMED = {
    "noise_heads": "extra_heads",
    "faithfulness_images": "map_check_images",
    "reference_draws": "baseline_draws",
}
"""Names of parameters in earlier versions, and their names now."""


def _once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"list every entry once, got {values}")
    return values


Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
ImageSize = Annotated[int, Field(ge=32, le=2048)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Methods = Annotated[list[Method], Field(min_length=1), AfterValidator(_once)]


class Params(BaseModel):
    """Base of all parameter models: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    filters: ClassVar[frozenset[str]] = frozenset()
    """Parameters that only choose which finished run is read. They are not part of a fingerprint."""
    of_a_study: ClassVar[bool] = False
    """Whether a study's file drives the notebook: it then takes all keys of a study, and reads its own."""
    listed: ClassVar[str] = "the notebook's parameters cell lists all"
    """Where a reader finds all names."""

    @classmethod
    def known(cls) -> list[str]:
        """The keys that are not refused."""
        return list(dict.fromkeys([*cls.model_fields, *(StudyParams.model_fields if cls.of_a_study else ())]))

    @classmethod
    def check(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate `values`. A single text or number stands for a list of one entry.

        Raises: InputError that names `where`, each unknown key with the nearest names, or each bad value with what
            is allowed.
        """
        known = cls.known()
        if unknown := [str(key) for key in values if key not in known]:
            raise InputError(f"{where}: " + "; ".join(cls.unknown(key) for key in unknown))
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        try:
            return cls(**own)
        except ValidationError as error:
            raise InputError(f"{where}: " + "; ".join(_explain(item) for item in error.errors())) from None

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Parameters of the running notebook, from its `globals()`.

        It reads the names assigned in cells whose first line starts with `# Parameters`: the notebook's own
        cell and the one that papermill adds below it. (Papermill only warns about unknown names; here they are
        refused.) A name in the notebook's own cell must be one that this notebook reads. Papermill's cell may
        hold parameters of other notebooks, since one file drives them all.

        A person who mends a wrong name runs the cell again in the same kernel. So wrong names of an earlier cell
        are forgotten as soon as a parameters cell was run again.
        """
        names: dict[str, None] = {}
        refused: dict[str, str] = {}
        by_papermill = False
        sources = [source.lstrip() for source in namespace.get("In", [])]
        for number, source in enumerate(sources):
            if not source.startswith("# Parameters"):
                continue
            if sources[number - 1].startswith("# Parameters"):
                by_papermill = True
            else:
                refused = {}
            allowed = cls.known() if by_papermill else cls.model_fields
            assigned, others = _statements(source)
            names |= {name: None for name in assigned if name in allowed}
            refused |= {name: cls._not_here(name) for name in assigned if name not in allowed}
            refused |= {other: f"write `name = value` in the parameters cell, got `{other}`" for other in others}
        if not names and not refused:
            raise InputError(
                "no parameters found: run the notebook's parameters cell first; its first line has to start with "
                "'# Parameters'"
            )
        where = "notebook parameters"
        if refused:
            raise InputError(f"{where}: " + "; ".join(refused.values()))
        settings = cls.check({name: namespace[name] for name in names}, where=where)
        unread = [name for name in names if name not in cls.model_fields]
        if unread and "CXR_WORKER" not in os.environ:  # in a study, another notebook reads them
            print(f"parameters of a study that this notebook does not read: {', '.join(unread)}")
        return settings

    @classmethod
    def _not_here(cls, name: str) -> str:
        """Why this notebook refuses a name in its parameters cell."""
        readers = [notebook for notebook, model in NOTEBOOKS.items() if name in model.model_fields]
        if readers:
            close = close_to(name, cls.model_fields)
            near = f", or did you mean {' or '.join(map(repr, close))}?" if close else ""
            of = ", ".join(readers)
            return f"'{name}' is a parameter of {of}, and this notebook does not read it: remove it{near}"
        return cls.unknown(name, cls.model_fields)

    @classmethod
    def unknown(cls, key: str, known: Iterable[str] | None = None) -> str:
        """What to say of a key that nobody reads: the nearest names, by default of all keys."""
        if key in RENAMED:
            return f"{key} is now {RENAMED[key]}"
        close = close_to(key, cls.known() if known is None else known)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else cls.listed
        return f"unknown parameter {key!r}: {hint}"

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        """One value stands for a list. What pydantic would take for something else than is meant is refused."""
        annotation = cls.model_fields[info.field_name].annotation
        kinds = _kinds(annotation)
        for part in _parts(value):
            if isinstance(part, bool) and bool not in kinds and kinds & {int, float}:
                raise ValueError(f"a number is wanted, got {part}")
            if isinstance(part, str) and not is_text(part):
                raise ValueError(f"a text that no file and no store can hold, got {on_one_line(part)!r}: mend it")
        if get_origin(annotation) is not list:
            return value
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            raise ValueError(f"a list is wanted, got the text {value!r} (papermill: give lists with -y)")
        single = isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""
        return [value] if single else value


@functools.cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """The types within an annotation: {str, float} of dict[str, list[float]]."""
    inner = () if get_origin(annotation) is Literal else get_args(annotation)
    return frozenset({annotation}).union(*(_kinds(part) for part in inner if not hasattr(part, "metadata")))


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all that is in its lists and mappings."""
    yield value
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)


def _statements(source: str) -> tuple[list[str], list[str]]:
    """The names that a cell assigns at its top level, and its other statements; those of a cell that could not run
    are none."""
    try:
        body = parse(source).body
    except (SyntaxError, ValueError):
        return [], []
    names, others = [], []
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        is_plain = isinstance(statement, ast.Assign) or (isinstance(statement, ast.AnnAssign) and statement.value)
        if is_plain and all(isinstance(target, ast.Name) for target in targets):
            names += [target.id for target in targets]
        elif not isinstance(statement, ast.Expr | ast.Pass):
            others.append(on_one_line(ast.unparse(statement), 60))
    return names, others


def _explain(item: Mapping[str, Any]) -> str:
    name = ".".join(on_one_line(part, 60) for part in item["loc"]) or "parameters"
    if item["type"] == "value_error":
        said = on_one_line(item["ctx"]["error"], 1000)
        return f"{name}: {said}" if item["loc"] else said
    got = item["input"]
    if isinstance(got, list) and name in ("architecture", "seed", "method"):
        return (
            f"{name}: this notebook takes one value, got the list {got}: choose one with `-p {name} {got[0]}`"
            if got
            else f"{name}: the list is empty"
        )
    hint = ""
    if isinstance(got, str) and "," in got and "." in name:
        hint = f": write a list as [{on_one_line(got)}]"
    elif item["type"] in ("string_type", "literal_error") and isinstance(got, bool | int | float):
        hint = f": put it in quotes (papermill: -r {name} VALUE)"
    elif item["type"] == "string_type" and got is None:
        hint = ": write '' for an empty text"
    return f"{name}: {item['msg'].removeprefix('Input ')}, got {on_one_line(repr(got))}{hint}"


def _true_or_false(value: Any) -> Any:
    """The words for true and false as papermill and YAML read them, where they arrive as text."""
    words = {"true": True, "yes": True, "false": False, "no": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


class DataParams(Params):
    """The images, their labels and their splits."""

    name: str = Field("phantom", description="name of the study and of its MLflow experiment")
    data: str = Field("phantom", description="'phantom', a folder with one sub-folder per class, or a CSV file")
    phantom_images: Annotated[int, Field(ge=30)] = Field(
        2000, description="number of phantom images, all classes together"
    )
    phantom_seed: Seed = Field(0, description="seed of the phantom: which images are drawn")
    lesion_contrast: Annotated[float, Field(gt=0, le=5)] = Field(
        2.5, description="density of the phantom's lesions; at 1 every network finds them hard to see"
    )
    shortcut: Literal["none", "transfer", "fine_tune"] = Field(
        "none", description="adds a shortcut marker to the training images of this stage (phantom only)"
    )
    patient_pattern: str = Field(
        "", description="for folders: regular expression; its first group in a file's name is the patient"
    )
    label_pattern: str = Field(
        "", description="for folders: regular expression; its first group in a file's name is the label"
    )
    image_folder: str = Field(
        "", description="read images only from folders of this name (masks often lie beside them); empty: all"
    )
    lung_mask_folder: str = Field(
        "",
        description="lung masks: with image_folder, the name of the folders beside those; otherwise one folder, "
        "which has a/b.png for the image a/b.jpg (`cxr lungs` makes one)",
    )
    given_splits: Literal["honour", "ignore"] = Field(
        "honour", description="use the splits that folders or a column give, or ignore them and make new ones"
    )
    path_column: str = Field("path", description="the table's column with the paths of the files")
    label_column: str = Field("label", description="the table's column with the labels")
    patient_column: str = Field("patient_id", description="the table's column with the patients; empty: none")
    split_column: str = Field("split", description="the table's column with train, val or test; may be missing")
    groups: Annotated[list[str], AfterValidator(_once)] = Field(
        ["label"],
        description="what drift and performance are compared by: label (the classes), and columns of the table",
    )
    bands: dict[str, list[float]] = Field(
        {}, description="where the bands of a column of numbers begin: {age: [40, 60]}"
    )
    path_template: str = Field(
        "", description="where the files of a table are, such as 'images_*/images/{}'; {}: the path column"
    )
    label_map: dict[str, str] = Field(
        {}, description="label in the data: class; other labels are left out; empty: all"
    )
    label_separator: str = Field(
        "", description="separator between labels in one cell; '[]': the cell is a list such as ['a', 'b']"
    )
    multi_label: Literal["refuse", "single", "first_of_priority"] = Field(
        "refuse",
        description="images with several classes: refuse them, leave them out, or take the first in label_map",
    )
    task: Literal["single_label", "multi_label"] = Field(
        "single_label",
        description="single_label: an image has one class; multi_label: any number of findings, each yes or no",
    )
    label_columns: dict[str, str] = Field(
        {}, description="for multi_label: column of the table: finding, where each finding has a column of its own"
    )
    uncertain: Literal["refuse", "zero", "one", "ignore"] = Field(
        "refuse", description="what -1 in label_columns counts as: no, yes, or not known (no part of any number)"
    )
    blank: Literal["refuse", "zero", "ignore"] = Field(
        "refuse", description="what an empty label counts as with multi_label: no finding, or not known"
    )
    repeated_rows: Literal["refuse", "any", "majority"] = Field(
        "refuse", description="several rows of one file: a finding counts if any row, or more than half, has it"
    )
    only: dict[str, list[str]] = Field(
        {}, description="use only rows of the table with these values: {view: [PA, AP]}"
    )
    max_images_per_class: Natural = Field(
        0, description="at most this many images of each class, chosen by patient; 0: all"
    )
    val_fraction: Fraction = Field(
        0.15, description="fraction of the images for validation; no patient is in two splits"
    )
    test_fraction: Fraction = Field(
        0.25, description="fraction of the images for the test; no patient is in two splits"
    )
    split_seed: Seed = Field(0, description="seed of the splits; the same for every seed, unless vary_split")
    image_size: ImageSize = Field(128, description="side in pixels")
    pseudonymise: Annotated[Literal["auto", True, False], BeforeValidator(_true_or_false)] = Field(
        "auto",
        description="store pseudonyms in place of patient ids, file names and paths (docs/privacy.md); auto: if "
        "files are DICOM",
    )
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop", description="a file that cannot be decoded: stop the study, or skip the file"
    )
    max_skipped_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="with on_bad_image skip: stop if a larger fraction of the images is bad"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value or not all(c.isalnum() or c in "-_." for c in value) or value.startswith("."):
            raise ValueError(f"use letters, digits, '-', '_' and '.', but no '.' at first, got {value!r}")
        return value

    @field_validator("path_template")
    @classmethod
    def _template(cls, value: str) -> str:
        if value and (value.count("{}") != 1 or "{}" not in value.replace("\\", "/").rsplit("/", 1)[-1]):
            raise ValueError(f"write {{}} once, after the last slash, as in 'images_*/images/{{}}', got {value!r}")
        return value

    @field_validator("label_map")
    @classmethod
    def _label_map(cls, value: dict[str, str]) -> dict[str, str]:
        empty = [key for key, name in value.items() if not name.strip() or not key.strip()]
        if empty:
            raise ValueError(
                f"give each label a class: neither may be empty, got {empty[0]!r}: {value[empty[0]]!r}"
            )
        return value

    @model_validator(mode="after")
    def _banded(self) -> Self:
        for name, edges in self.bands.items():
            if name not in self.groups or name == "label":
                raise ValueError(f"bands: '{name}' is no column of numbers in groups, which are {self.groups}")
            if not edges or any(not low < high for low, high in pairwise([-inf, *edges, inf])):
                raise ValueError(f"bands: {name}: give ascending numbers, at least one, got {edges}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [name for name in (self.path_column, self.label_column, self.patient_column) if name]
        if len(set(names)) < len(names) or not self.path_column or not self.label_column:
            raise ValueError(
                "path_column, label_column and patient_column: name three different columns (patient_column "
                f"may be empty), got {self.path_column!r}, {self.label_column!r} and {self.patient_column!r}"
            )
        if self.multi_label == "first_of_priority" and not self.label_map:
            raise ValueError(
                "multi_label: first_of_priority needs the order of label_map, which is empty: fill in label_map"
            )
        if self.task == "multi_label":
            self._findings()
        elif self.label_columns:
            raise ValueError("label_columns: each column is a finding of its own: set task to multi_label")
        if self.multi_label != "refuse" and not self.label_separator:
            raise ValueError(
                f"multi_label: {self.multi_label} needs label_separator, the separator between labels in one cell"
            )
        if self.lung_mask_folder and self.image_folder == self.lung_mask_folder:
            raise ValueError(f"lung_mask_folder: {self.lung_mask_folder} is the image_folder: name another")
        if self.val_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"val_fraction + test_fraction is {self.val_fraction + self.test_fraction:g}: less than a "
                "tenth of the images is left for training: lower one of them"
            )
        return self

    def _findings(self) -> None:
        """Raise ValueError for parameters that contradict `task: multi_label`."""
        if self.multi_label != "refuse":
            raise ValueError(
                f"multi_label: {self.multi_label} makes one class of several labels, and task: multi_label keeps "
                "them: remove multi_label, or set task to single_label"
            )
        if self.shortcut != "none":
            raise ValueError(
                "shortcut: its marker shows one class, and task: multi_label has several findings an image: set "
                "shortcut to none, or task to single_label"
            )
        if self.label_columns and (self.label_map or self.label_separator):
            raise ValueError(
                "label_columns: the findings have columns of their own: leave label_map and label_separator empty"
            )
        if self.data != "phantom" and not (self.label_columns or self.label_map):
            raise ValueError(
                "task: multi_label needs the names of the findings: fill in label_columns (a column a finding), "
                "or label_map (labels in one cell)"
            )
        if empty := [key for key, name in self.label_columns.items() if not name.strip() or not key.strip()]:
            raise ValueError(f"label_columns: give each column a finding: neither may be empty, got {empty[0]!r}")


class _TrainFields(Params):
    """Training: a new head on the frozen backbone, then every layer."""

    weights: str = Field("source", description="'imagenet', 'source', 'none', or a file or folder")
    vary_split: bool = Field(
        False,
        description="draw each training's splits with split_seed + seed: seeds differ in test images too",
    )
    batch_size: Count = Field(32, description="images in each step of training, both stages")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="dropout before the last layer, in training"
    )
    class_weights: bool = Field(
        False,
        description="weight each class in the loss by the inverse of its number of images; with multi_label, the "
        "images with and without a finding",
    )
    augmentation: Literal["none", "light"] = Field(
        "none", description="light: rotation up to 7 degrees, shift and zoom up to 6 %, contrast up to 15 %"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="optimizer of both stages; sgd has momentum 0.9")
    transfer_epochs: Count = Field(100, description="maximum of epochs in stage 1 (transfer: the new head)")
    transfer_learning_rate: Positive = Field(2.0e-2, description="learning rate of stage 1")
    transfer_patience: Count = Field(
        15, description="stop stage 1 after this many epochs without a lower validation loss"
    )
    fine_tune_epochs: Count = Field(4, description="maximum of epochs in stage 2 (fine-tuning: every layer)")
    fine_tune_learning_rate: Positive = Field(3.0e-4, description="learning rate of stage 2")
    fine_tune_patience: Count = Field(
        4, description="stop stage 2 after this many epochs without a better fine_tune_monitor"
    )
    fine_tune_monitor: Literal["val_loss", "val_auc"] = Field(
        "val_loss",
        description="which epoch of stage 2 is kept: of the lowest validation loss, or of the highest macro AUC",
    )
    fine_tune_from: str = Field(
        "", description="keep all layers up to and including this one frozen in stage 2 too; empty: none"
    )
    checkpoint_every: Natural = Field(
        0, description="keep a checkpoint every this many epochs of fine-tuning; 0: none"
    )
    extra_heads: Natural = Field(
        2, description="extra heads for stage 1 that differ only by seed, for the baseline two heads"
    )
    placebo: bool = Field(
        False, description="after stage 2, train on for as many epochs again: the matched null of the drift"
    )
    batchnorm: Literal["inference", "training"] = Field(
        "inference", description="mode of BatchNorm layers in fine-tuning: keep their statistics, or train them"
    )
    deterministic: bool = Field(
        True, description="same bits in every run on one machine with as many threads; slower on GPUs"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="number format of the backbone in training; weights and checkpoints stay float32"
    )
    xla: bool = Field(False, description="compile training with XLA; needs deterministic: false")
    devices: Natural = Field(0, description="number of GPUs that share each batch in training; 0 and 1: one")

    @model_validator(mode="after")
    def _accelerated(self) -> Self:
        if self.xla and self.deterministic:
            raise ValueError("xla: XLA is not deterministic: set deterministic to false, or xla to false")
        if self.xla and self.devices > 1:
            raise ValueError(
                f"xla: works on one device only, got devices {self.devices}: set xla to false, or devices to 0"
            )
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices: {self.devices} cannot share batches of {self.batch_size} images: raise batch_size"
            )
        return self


class TrainParams(DataParams, _TrainFields):
    """`1_train.ipynb`."""

    of_a_study: ClassVar[bool] = True

    architecture: Architecture = "CompactResNetV2"
    seed: Seed = 0


class _AttributeFields(Params):
    """Attribution: which maps of which images."""

    target_layer: str = Field(
        "penultimate",
        description="'penultimate', 'penultimate_cut', 'shallower', 'final', 'last_conv' or a layer's name",
    )
    explain: Literal["true", "predicted"] = Field(
        "true", description="explain the true class or the predicted class"
    )
    score: Score = "log_odds"
    images: Literal["correct", "all"] = Field(
        "correct", description="images that get maps: those that both checkpoints classify correctly, or all"
    )
    attribute_split: Literal["train", "val", "test"] = Field("test", description="split whose images get maps")
    attribute_batch_size: Count = Field(32, description="images computed at once; only memory limits it")
    overlays_per_class: Natural = Field(
        2, description="images of each class shown with their maps in the MLflow run"
    )
    multiverse: bool = Field(True, description="also compute maps from other layers and of other scores")
    map_check_images: Natural = Field(
        100, description="at most so many images are used to check the maps against the model; 0: no checks"
    )


def _as_list(value: Any) -> Any:
    """A single value as a list: a notebook takes the study's list or one typed value."""
    if value in ("", None):
        return []
    return value if isinstance(value, list | tuple) else [value]


class _CellFilter(Params):
    """Which finished runs a notebook of a study reads."""

    of_a_study: ClassVar[bool] = True
    filters: ClassVar[frozenset[str]] = frozenset({"architecture", "seed"})

    architecture: Annotated[list[Architecture], BeforeValidator(_as_list)] = Field(
        [], description="read a run with one of these; empty: any"
    )
    seed: Annotated[list[Seed], BeforeValidator(_as_list)] = Field(
        [], description="read a run with one of these; empty: any"
    )


class AttributeParams(_AttributeFields, _CellFilter):
    """`2_attribute.ipynb`."""

    name: str = "phantom"
    data: str = Field("", description="where the images are now; empty: where the training found them")
    train_run_id: str = Field("", description="run id; empty: the latest finished run of the experiment")
    method: Methods = list(DEFAULT_METHODS)


class _IntervalFields(Params):
    """Intervals."""

    n_boot: Annotated[int, Field(ge=100)] = Field(2000, description="number of bootstrap replicates")
    level: Fraction = Field(0.95, description="level of the intervals; 0.95 is 95 %")


class _ScoreFields(_IntervalFields):
    """Scoring."""

    baseline_draws: Count = Field(
        4, description="number of other images that each image is compared with, for each baseline"
    )


class ScoreParams(_ScoreFields, _CellFilter):
    """`3_score.ipynb`."""

    name: str = "phantom"
    attribute_run_id: str = Field("", description="run id; empty: the latest finished run of the experiment")
    method: Method = "layercam"


class _CompareFields(Params):
    """Comparison: what the verdicts test."""

    primary_metric: str = Field(
        "overlap",
        description="metric that the verdicts test, in its corrected form if it has one; see docs/metrics.md",
    )
    auc_margin: Fraction = Field(0.02, description="a change of the macro AUC up to this counts as stable")
    centroid_margin: Fraction = Field(
        0.5, description="a centroid shift up to this fraction of that between two patients counts as no shift"
    )
    overlap_margin: Fraction = Field(
        0.1,
        description="a difference of the primary metric up to this counts as none; of a corrected metric in units "
        "of the distance between two patients (0) and identical maps (1)",
    )
    majority: Fraction = Field(
        0.75, description="share of the multiverse's analyses that must agree with a verdict on an order"
    )
    plan: str = Field("", description="file of the frozen plan that the report cites (`cxr plan`); empty: none")


class CompareParams(_IntervalFields, _CompareFields, _CellFilter):
    """`4_compare.ipynb`."""

    filters: ClassVar[frozenset[str]] = frozenset({"architecture", "seed", "method"})

    method: Annotated[list[Method], BeforeValidator(_as_list)] = Field(
        [], description="read runs with these methods; empty: all"
    )
    name: str = "phantom"
    score_run_ids: list[str] = Field(
        default_factory=list, description="run ids; empty: the latest run of every cell of the experiment"
    )
    external_run_ids: list[str] = Field(
        default_factory=list, description="run ids of 5_drift on external test sets; empty: none"
    )


class ExploreParams(Params):
    """`explore.ipynb`, which only reads."""

    name: str = Field("", description="study that is shown first; empty: the one with the newest score run")
    primary_metric: str = Field("overlap", description="metric that orders the images at first")


class StudyParams(DataParams, _TrainFields, _AttributeFields, _ScoreFields, _CompareFields):
    """The grid of a study, and how it runs.

    A study has all parameters above, and lists for the three axes of the grid.
    """

    listed: ClassVar[str] = "`cxr params` lists all"

    architecture: Annotated[list[Architecture], Field(min_length=1), AfterValidator(_once)] = Field(
        ["CompactDenseNet", "CompactResNetV2", "CompactInception"],
        description="axis of the grid: the networks; `cxr models` lists them",
    )
    seed: Annotated[list[Seed], Field(min_length=1), AfterValidator(_once)] = Field(
        [0, 1], description="axis of the grid: one training per seed; all use the same splits, unless vary_split"
    )
    method: Methods = Field(list(DEFAULT_METHODS), description="axis of the grid: the methods that compute maps")
    jobs: Natural = Field(0, description="number of notebooks that run at once; 0: one for every two cores")
    external: dict[str, str] = Field(
        {},
        description="test sets from elsewhere, {name: where}: a folder, a table, or a parameter file whose "
        "parameters of the data say how the set is laid out; nothing is trained on them",
    )

    @field_validator("external")
    @classmethod
    def _external(cls, value: dict[str, str]) -> dict[str, str]:
        for name, where in value.items():
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name == "test":
                raise ValueError(f"use letters, digits, '-', '_' and '.' in names, and not 'test', got {name!r}")
            if not where or where == "phantom":
                raise ValueError(f"{name}: name a folder, a table or a parameter file, got {where!r}")
        return value

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyParams:
        """Read a study file; `overrides` replace its values. Raises InputError."""
        return cls.check({**read_yaml(path), **(overrides or {})}, where=str(path))


class PretrainParams(Params):
    """`0_pretrain.ipynb`: train the `source` weights of one architecture."""

    name: str = "pretrain"
    architecture: Architecture = "CompactResNetV2"
    seed: Seed = 0
    image_size: ImageSize = 96
    source_images: Annotated[int, Field(ge=64)] = 12000
    epochs: Count = 8
    batch_size: Count = 48
    learning_rate: Positive = 3.0e-3
    output: str = Field("", description="folder for the weights; empty: the cache where `weights: source` looks")


class LungParams(Params):
    """`0_lungs.ipynb`: train the lung finder."""

    name: str = Field("lungs", description="the MLflow experiment")
    seed: Seed = 0
    images: Annotated[int, Field(ge=32)] = 12000
    epochs: Count = 8
    batch_size: Count = 32
    learning_rate: Positive = 3.0e-3
    output: str = Field("", description="folder for the weights; empty: they are only logged")


class DriftParams(DataParams, _ScoreFields):
    """`5_drift.ipynb`: two models of the user's own."""

    name: str = Field("drift", description="the MLflow experiment")
    train_run_id: str = Field(
        "", description="a train run, in place of model_a and model_b: its checkpoints before and after"
    )
    model_a: str = Field("", description="model before (A): a .keras or .h5 file with the whole model")
    model_b: str = Field("", description="model after (B)")
    like_a: list[str] = Field([], description="models like A, trained again with other seeds")
    like_b: list[str] = Field([], description="models like B, trained again with other seeds")
    module: str = Field(
        "", description="Python file that defines layers or functions of the models; its code is run; empty: none"
    )
    use_split: Literal["", "train", "val", "test"] = Field(
        "", description="only images of this split (given by the data, or made as in a study); empty: all"
    )
    image_labels: Literal["auto", "none"] = Field(
        "auto", description="'none': ignore labels; images may lie at any depth of the folder"
    )
    class_names: list[str] = Field(
        [], description="classes in the order of the model's outputs; empty: the labels, sorted"
    )
    image_size: Annotated[int, Field(ge=0, le=2048)] = Field(0, description="side in pixels; 0: the models' own")
    preprocessing: str = Field(
        "auto", description="what the models expect in place of grey values; see cxr.models.foreign.adapt"
    )
    method: Methods = ["layercam"]
    target_layer: str = Field("penultimate", description="as in a study, or the name of a layer")
    target_layer_b: str = Field(
        "", description="layer of the model after, if it has another name there; empty: the same"
    )
    explain: Literal["auto", "true", "predicted", "predicted_a"] = Field(
        "auto",
        description="class to explain: true, predicted by B, or by A (predicted_a); auto: true if known",
    )
    score: Score = "log_odds"
    images: Literal["auto", "correct", "all"] = Field(
        "auto",
        description="score images whose explained class both models predict, or all; auto: correct if labelled",
    )
    map_check_images: Natural = Field(
        100, description="at most so many images are used to check the maps against the models; 0: no checks"
    )
    batch_size: Count = 32
    seed: Seed = Field(0, description="seed of the bootstrap and of the draws for the baselines")
    gate: list[str] = Field([], description="conditions on metrics, such as 'overlap_median>=0.5'")

    @model_validator(mode="after")
    def _models(self) -> Self:
        if self.train_run_id and (self.model_a or self.model_b or self.class_names):
            raise ValueError(
                "train_run_id: the run names both models and their classes: leave model_a, model_b and "
                "class_names empty"
            )
        return self

    @model_validator(mode="after")
    def _ungrouped(self) -> Self:
        if self.groups != ["label"]:
            raise ValueError(f"groups: only a study compares groups, got {self.groups}: leave it at [label]")
        return self


NOTEBOOKS: dict[str, type[Params]] = {
    "0_lungs": LungParams,
    "0_pretrain": PretrainParams,
    "1_train": TrainParams,
    "2_attribute": AttributeParams,
    "3_score": ScoreParams,
    "4_compare": CompareParams,
    "5_drift": DriftParams,
    "explore": ExploreParams,
}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping as a dict, by `cxr.core.yaml_values`. Raises InputError if there is none."""
    path = Path(path)
    try:
        values = yaml_values.read_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the parameter file ({error.strerror}){_similar(path)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'key: value' lines, got a {type(values).__name__}")
    return values


def _similar(path: Path) -> str:
    """A hint at a parameter file with a similar name, in the same folder or in `params`."""
    near = {other.name: other for folder in ("params", ".") for other in (path.parent / folder).glob("*.y*ml")}
    close = difflib.get_close_matches(path.name, near, n=1)
    return f": did you mean {near[close[0]]}?" if close and not path.exists() else ""


def read_overrides(
    assignments: Sequence[str], model: type[Params] = StudyParams, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `key=value` strings of `--set` as a dict, with the values of other options of the command line.

    A value is what was typed, up to its last character: text stays text (`yes`, `*`, `a #b`, `2024-01-01`), and
    becomes a number, or true or false, only where the parameter is one. YAML is read only where the parameter is a
    mapping, and for a list in brackets. A single value stands for a list.

    Args:
        model: whose parameters are set. Names and limits are left to `Params.check`.
        options: values of parameters that have an option of their own.

    Raises:
        InputError: a string is no `key=value`, a key is given twice, or a list or mapping is not YAML.
    """
    overrides = dict(options or {})
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"--set {assignment}: expected key=value")
        if key in overrides:
            raise InputError(f"--set {assignment}: '{key}' is given twice: leave one out")
        field = model.model_fields.get(key)
        overrides[key] = value if field is None else _typed(value, field.annotation, f"--set {assignment}")
    return overrides


def _typed(text: str, annotation: Any, where: str) -> Any:
    """A text of the command line as a value of this type; as it is if it cannot be one."""
    origin = get_origin(annotation)
    if origin is dict or (origin is list and text.lstrip().startswith("[")):
        return yaml_values.parse(text, where=where, what="the value is not YAML")
    if is_text(text) and len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise InputError(f"{where}: the quotes would be part of the value: leave them out")
    try:
        return TypeAdapter(get_args(annotation)[0] if origin is list else annotation).validate_python(text)
    except ValidationError:
        return text
