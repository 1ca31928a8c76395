"""Validated parameters: one flat vocabulary, shared by the notebooks, papermill and `cxr study`.

A study file (`params/*.yaml`) is a flat mapping. Its three grid axes, `architecture`, `seed` and `method`, are
lists there; a notebook runs one cell of the grid and takes a scalar of the same name. The file that drives
`cxr study FILE` therefore also drives one notebook: `papermill 1_train.ipynb out.ipynb -f FILE -p architecture
ResNet50V2 -p seed 0`; keys that belong to other notebooks are left alone, keys that nobody knows are refused.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cxr.core import architectures
from cxr.core.errors import InputError

Architecture = Annotated[str, AfterValidator(architectures.check)]
Method = Literal[
    "layercam",
    "gradcampp",
    "gradcam",
    "hirescam",
    "scorecam",
    "smoothgrad",
    "integrated_gradients",
    "occlusion",
]
ARCHITECTURES: tuple[str, ...] = architectures.KNOWN
METHODS: tuple[str, ...] = get_args(Method)
DEFAULT_METHODS: tuple[str, ...] = ("layercam", "gradcampp")

SCHEMA = "2"
"""Version of the names of parameters, columns, metrics and artifacts: the tag `cxr.schema` of every run."""
RENAMED = {
    "noise_heads": "extra_heads",
    "faithfulness_images": "map_check_images",
    "reference_draws": "baseline_draws",
}
"""Parameters of earlier versions, and what each is called now."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Params(BaseModel):
    """Base of all parameter models: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    filters: ClassVar[frozenset[str]] = frozenset()
    """Parameters that choose among finished runs; they say nothing that the chosen run does not say itself."""

    @classmethod
    def check(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate `values`; raises InputError naming `where`, each bad key, what it got and what fits."""
        unknown = [key for key in values if key not in VOCABULARY]
        if unknown:
            raise InputError(f"{where}: " + "; ".join(_unknown(key) for key in unknown))
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        try:
            return cls(**own)
        except ValidationError as error:
            raise InputError(f"{where}: " + "; ".join(_explain(item) for item in error.errors())) from None

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Parameters of the running notebook, from its `globals()`.

        Read are the names assigned in cells whose first line starts with `# Parameters`: the notebook's own
        cell and the one papermill injects. (Papermill itself only warns of a name that it does not know.)
        """
        names: dict[str, None] = {}
        for source in namespace.get("In", []):
            if source.lstrip().startswith("# Parameters"):
                names.update(dict.fromkeys(_assigned(source)))
        if not names:
            raise InputError(
                "no parameters found: the notebook's parameters cell has to be run first, and its first line "
                "has to start with '# Parameters'"
            )
        return cls.check({name: namespace[name] for name in names}, where="notebook parameters")


def _assigned(source: str) -> list[str]:
    return [
        target.id
        for statement in ast.parse(source).body
        for target in (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [statement.target]
            if isinstance(statement, ast.AnnAssign)
            else []
        )
        if isinstance(target, ast.Name)
    ]


def _unknown(key: str) -> str:
    if key in RENAMED:
        return f"{key} is now {RENAMED[key]}"
    close = difflib.get_close_matches(str(key), VOCABULARY, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(sorted(VOCABULARY))}"
    return f"unknown parameter '{key}': {hint}"


def _explain(item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "parameters"
    if item["type"] == "value_error":
        return f"{name}: {item['ctx']['error']}" if item["loc"] else str(item["ctx"]["error"])
    got = item["input"]
    if isinstance(got, list) and name in ("architecture", "seed", "method"):
        return (
            f"{name}: this notebook runs one, and got the study's list {got}: choose with `-p {name} {got[0]}`"
            if got
            else f"{name}: the list is empty"
        )
    return f"{name}: {item['msg'].removeprefix('Input ')}, got {got!r}"


class DataParams(Params):
    """The images, their labels and their splits."""

    name: str = Field("phantom", description="name of the study: the MLflow experiment")
    data: str = Field("phantom", description="'phantom', a folder with one sub-folder a class, or a manifest CSV")
    phantom_images: Annotated[int, Field(ge=30)] = Field(2000, description="of the phantom, over all classes")
    phantom_seed: Seed = Field(0, description="which phantom images are drawn")
    lesion_contrast: Annotated[float, Field(gt=0, le=5)] = Field(
        2.5, description="of the phantom; 1: subtle, hard for any network"
    )
    shortcut: Literal["none", "transfer", "fine_tune"] = Field(
        "none", description="the stage in whose training images the phantom's marker betrays the class"
    )
    patient_pattern: str = Field(
        "", description="regular expression whose first group in a file's name is the patient, for folders"
    )
    label_pattern: str = Field(
        "", description="regular expression whose first group, where a file's name has it, is its label"
    )
    image_folder: str = Field(
        "", description="name of the folders with the images, where masks lie beside them; empty: all"
    )
    given_splits: Literal["honour", "ignore"] = Field(
        "honour", description="what folders train, val and test or a split column are for"
    )
    path_column: str = Field("path", description="a table's column with the files' paths")
    label_column: str = Field("label", description="a table's column with the labels")
    patient_column: str = Field("patient_id", description="a table's column with the patients; empty: it has none")
    split_column: str = Field("split", description="a table's column with train, val or test; may be missing")
    path_template: str = Field(
        "", description="where a table's files are, as in 'images_*/images/{}'; {}: the path column's cell"
    )
    label_map: dict[str, str] = Field({}, description="label as found: class; others are left out; empty: all")
    label_separator: str = Field("", description="what stands between several labels in a table's cell")
    multi_label: Literal["refuse", "single", "first_of_priority"] = Field(
        "refuse", description="images of several classes: an error, left out, or of the first in label_map"
    )
    max_images_per_class: Annotated[int, Field(ge=0)] = Field(
        0, description="at most so many images of a class, chosen by patient; 0: all"
    )
    val_fraction: Fraction = Field(0.15, description="share of the images for validation, split by patient")
    test_fraction: Fraction = Field(0.25, description="share of the images for the test, split by patient")
    split_seed: Seed = Field(0, description="which patients the splits get; the same for every seed of the grid")
    image_size: Annotated[int, Field(ge=32, le=2048)] = Field(128, description="side in pixels")
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop", description="what a file that does not decode does: stop the study, or be left out of it"
    )
    max_skipped_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="with `on_bad_image: skip`: if more of the images are bad, the study stops"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value or not all(c.isalnum() or c in "-_." for c in value) or value.startswith("."):
            raise ValueError(f"letters, digits, '-', '_' and '.' only, got {value!r}")
        return value

    @field_validator("path_template")
    @classmethod
    def _template(cls, value: str) -> str:
        if value and (value.count("{}") != 1 or "{}" not in value.replace("\\", "/").rsplit("/", 1)[-1]):
            raise ValueError(f"{{}} once, behind the last slash, as in 'images_*/images/{{}}', got {value!r}")
        return value

    @field_validator("label_map")
    @classmethod
    def _label_map(cls, value: dict[str, str]) -> dict[str, str]:
        empty = [key for key, name in value.items() if not name.strip() or not key.strip()]
        if empty:
            raise ValueError(f"neither a label nor a class may be empty, got {empty[0]!r}: {value[empty[0]]!r}")
        return value

    @model_validator(mode="after")
    def _labels(self) -> Self:
        names = [name for name in (self.path_column, self.label_column, self.patient_column) if name]
        if len(set(names)) < len(names) or not self.path_column or not self.label_column:
            raise ValueError(
                "path_column, label_column and patient_column: three different columns (patient_column may be "
                f"empty), got {self.path_column!r}, {self.label_column!r} and {self.patient_column!r}"
            )
        if self.multi_label == "first_of_priority" and not self.label_map:
            raise ValueError("multi_label: first_of_priority takes the order of label_map, which is empty")
        if self.multi_label != "refuse" and not self.label_separator:
            raise ValueError(
                f"multi_label: {self.multi_label} needs label_separator: what stands between the labels of a cell"
            )
        return self

    @model_validator(mode="after")
    def _fractions(self) -> Self:
        if self.val_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"val_fraction + test_fraction is {self.val_fraction + self.test_fraction:g}, which leaves "
                "less than a tenth of the images for training: lower one of them"
            )
        return self


class _TrainFields(Params):
    """Training: a new head on the frozen backbone, then every layer."""

    weights: str = Field("source", description="'imagenet', 'source', 'none', or a file or folder")
    batch_size: Count = Field(32, description="images a step of training, in both stages")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="before the last layer, while training")
    class_weights: bool = Field(False, description="weigh classes in the loss inversely to their number")
    augmentation: Literal["none", "light"] = Field(
        "none", description="light: turns up to 7 degrees, shifts and zooms up to 6 %, contrast up to 15 %"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="of both stages; sgd: with momentum 0.9")
    transfer_epochs: Count = Field(100, description="most epochs of stage 1, the new head")
    transfer_learning_rate: Annotated[float, Field(gt=0)] = Field(2.0e-2, description="of stage 1")
    transfer_patience: Count = Field(
        15, description="stage 1 ends after so many epochs without a lower validation loss"
    )
    fine_tune_epochs: Count = Field(4, description="most epochs of stage 2, every layer")
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] = Field(3.0e-4, description="of stage 2")
    fine_tune_patience: Count = Field(
        4, description="stage 2 ends after so many epochs without a lower validation loss"
    )
    fine_tune_from: str = Field(
        "", description="layer up to which (inclusive) all stays frozen in fine-tuning too; empty: none"
    )
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs of fine-tuning between checkpoints, for the course of drift; 0: none"
    )
    extra_heads: Annotated[int, Field(ge=0)] = Field(
        2, description="extra transfer heads, that differ by seed alone, for the baseline two heads"
    )
    batchnorm: Literal["inference", "training"] = Field(
        "inference", description="what BatchNorm layers do while fine-tuning"
    )
    deterministic: bool = Field(True, description="the same bits every time on one machine; slower on GPUs")
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="what the backbone computes in while training; weights and checkpoints: float32"
    )
    xla: bool = Field(False, description="compile training with XLA; needs deterministic: false")
    devices: Annotated[int, Field(ge=0)] = Field(
        0, description="GPUs to share each batch of training between; 0 and 1: one"
    )

    @model_validator(mode="after")
    def _accelerated(self) -> Self:
        if self.xla and self.deterministic:
            raise ValueError(
                "xla: its operations are not deterministic: set deterministic to false, or xla to false"
            )
        if self.xla and self.devices > 1:
            raise ValueError(
                f"xla: on one device only, got devices {self.devices}: set xla to false, or devices to 0"
            )
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices: {self.devices} cannot share batches of {self.batch_size} images: raise batch_size"
            )
        return self


class TrainParams(DataParams, _TrainFields):
    """`1_train.ipynb`."""

    architecture: Architecture = "CompactResNetV2"
    seed: Seed = 0


class _AttributeFields(Params):
    """Attribution: which maps of which images."""

    target_layer: str = Field(
        "penultimate",
        description="'penultimate', 'penultimate_cut', 'shallower', 'final', 'last_conv' or a layer's name",
    )
    explain: Literal["true", "predicted"] = Field(
        "true", description="which class' logit is explained: the image's own, or the predicted one"
    )
    images: Literal["correct", "all"] = Field(
        "correct", description="which get maps: those that both checkpoints classify correctly, or all"
    )
    attribute_split: Literal["train", "val", "test"] = Field("test", description="the split whose images get maps")
    attribute_batch_size: Count = Field(32, description="images at once, which only memory limits")
    overlays_per_class: Annotated[int, Field(ge=0)] = Field(
        2, description="pictures of maps over their image in the MLflow run, the first by image id"
    )
    multiverse: bool = Field(True, description="also explain by other layers, scores and normalisations")
    map_check_images: Annotated[int, Field(ge=0)] = Field(
        40, description="images on which maps are tested against the model; 0: no test"
    )


def _as_list(value: Any) -> Any:
    """One value as a list of one: a notebook takes a study's list, and one value that is typed."""
    if value in ("", None):
        return []
    return value if isinstance(value, list | tuple) else [value]


class _CellFilter(Params):
    """Which finished runs a notebook reads."""

    filters: ClassVar[frozenset[str]] = frozenset({"architecture", "seed"})

    architecture: Annotated[list[Architecture], BeforeValidator(_as_list)] = Field(
        [], description="of the run that is read: one of these; empty: any"
    )
    seed: Annotated[list[Seed], BeforeValidator(_as_list)] = Field(
        [], description="of the run that is read: one of these; empty: any"
    )


class AttributeParams(_AttributeFields, _CellFilter):
    """`2_attribute.ipynb`."""

    name: str = "phantom"
    data: str = Field("", description="where the images are now; empty: where the train run found them")
    train_run_id: str = Field("", description="empty: the latest finished one of the experiment")
    method: Annotated[list[Method], Field(min_length=1)] = list(DEFAULT_METHODS)


class _IntervalFields(Params):
    """Intervals."""

    n_boot: Annotated[int, Field(ge=100)] = Field(2000, description="bootstrap replicates")
    level: Fraction = Field(0.95, description="of the intervals: 0.95 is 95 %")


class _ScoreFields(_IntervalFields):
    """Scoring."""

    baseline_draws: Count = Field(4, description="other images an image is compared with, per baseline")


class ScoreParams(_ScoreFields, _CellFilter):
    """`3_score.ipynb`."""

    name: str = "phantom"
    attribute_run_id: str = Field("", description="empty: the latest finished one of the experiment")
    method: Method = "layercam"


class _CompareFields(Params):
    """Comparison: what the verdicts test."""

    primary_metric: str = Field("overlap", description="what the verdicts test: see docs/metrics.md")
    auc_margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.02, description="a change of macro AUC within this is called stable"
    )
    centroid_margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="a centroid shift under this fraction of the image's diagonal is called staying put"
    )
    overlap_margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="a difference in the primary metric within this is called none"
    )


class CompareParams(_IntervalFields, _CompareFields, _CellFilter):
    """`4_compare.ipynb`."""

    filters: ClassVar[frozenset[str]] = frozenset({"architecture", "seed", "method"})

    method: Annotated[list[Method], BeforeValidator(_as_list)] = Field(
        [], description="of the runs that are read: these; empty: all"
    )
    name: str = "phantom"
    score_run_ids: list[str] = Field(
        default_factory=list, description="empty: the latest of every cell of the experiment"
    )


class ExploreParams(Params):
    """`explore.ipynb`, which only reads."""

    name: str = Field("", description="the study to begin with; empty: that with the newest score run")
    primary_metric: str = Field("overlap", description="by which images are ranked at first")


class StudyParams(DataParams, _TrainFields, _AttributeFields, _ScoreFields, _CompareFields):
    """The grid of a study, and how it runs.

    A study has everything above, with lists for the three axes of the grid.
    """

    architecture: Annotated[list[Architecture], Field(min_length=1)] = Field(
        ["CompactDenseNet", "CompactResNetV2", "CompactInception"],
        description="an axis of the grid: the networks; `cxr models` lists them",
    )
    seed: Annotated[list[Seed], Field(min_length=1)] = Field(
        [0, 1], description="an axis of the grid: a training each; splits stay the same"
    )
    method: Annotated[list[Method], Field(min_length=1)] = Field(
        list(DEFAULT_METHODS), description="an axis of the grid: how maps are made"
    )
    jobs: Annotated[int, Field(ge=0)] = Field(0, description="notebooks at once; 0: one for every two cores")

    @field_validator("architecture", "seed", "method")
    @classmethod
    def _once(cls, value: list) -> list:
        if len(set(value)) < len(value):
            raise ValueError(f"every entry once, got {value}")
        return value

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyParams:
        """Read a study file and lay `overrides` over it. Raises InputError."""
        return cls.check({**read_yaml(path), **(overrides or {})}, where=str(path))


class PretrainParams(Params):
    """`0_pretrain.ipynb`: make the `source` weights of one architecture."""

    name: str = "pretrain"
    architecture: Architecture = "CompactResNetV2"
    seed: Seed = 0
    image_size: Annotated[int, Field(ge=32, le=2048)] = 96
    source_images: Annotated[int, Field(ge=64)] = 12000
    epochs: Count = 8
    batch_size: Count = 48
    learning_rate: Annotated[float, Field(gt=0)] = 3.0e-3
    output: str = Field("", description="folder for the weights; empty: the cache that `weights: source` looks in")


class DriftParams(DataParams, _IntervalFields):
    """`5_drift.ipynb`: two models of the user's own."""

    name: str = Field("drift", description="the MLflow experiment")
    model_a: str = Field("", description="the model before: a .keras or .h5 file with the whole model")
    model_b: str = Field("", description="the model after")
    like_a: list[str] = Field([], description="models that differ from A by their training's seed alone")
    like_b: list[str] = Field([], description="models that differ from B by their training's seed alone")
    use_split: Literal["", "train", "val", "test"] = Field(
        "", description="images of this split only, as the data, or else a study, split them; empty: all"
    )
    image_labels: Literal["auto", "none"] = Field(
        "auto", description="'none': folders and label columns say no class; a folder's images lie at any depth"
    )
    class_names: list[str] = Field([], description="in the order of the outputs; empty: the labels, sorted")
    image_size: Annotated[int, Field(ge=0, le=2048)] = Field(0, description="side in pixels; 0: the models' own")
    preprocessing: str = Field("auto", description="what grey values become; see cxr.models.foreign.adapt")
    method: Annotated[list[Method], Field(min_length=1)] = ["layercam"]
    target_layer: str = Field("penultimate", description="as in a study, or a layer's name")
    target_layer_b: str = Field("", description="in B, where it is another than in A")
    explain: Literal["auto", "true", "predicted", "predicted_a"] = Field(
        "auto", description="the class explained: the true one, or what B or A predicts; auto: true where known"
    )
    images: Literal["auto", "correct", "all"] = Field(
        "auto", description="scored: of which both models predict the class explained; auto: so where labelled"
    )
    batch_size: Count = 32
    baseline_draws: Count = Field(4, description="other images an image is compared with, per baseline")
    seed: Seed = Field(0, description="of the bootstrap and of the baselines' draws")
    gate: list[str] = Field([], description="conditions on metrics, such as 'overlap_median>=0.5'")

    @field_validator("method")
    @classmethod
    def _once(cls, value: list) -> list:
        if len(set(value)) < len(value):
            raise ValueError(f"every entry once, got {value}")
        return value


NOTEBOOKS: dict[str, type[Params]] = {
    "0_pretrain": PretrainParams,
    "1_train": TrainParams,
    "2_attribute": AttributeParams,
    "3_score": ScoreParams,
    "4_compare": CompareParams,
    "5_drift": DriftParams,
    "explore": ExploreParams,
}
VOCABULARY: frozenset[str] = frozenset().union(
    StudyParams.model_fields, *(model.model_fields for model in NOTEBOOKS.values())
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A flat YAML mapping as a dict. Raises InputError when it cannot be had or is something else."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the parameter file ({error.strerror}){_meant(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'key: value' lines, got a {type(values).__name__}")
    return values


def _meant(path: Path) -> str:
    """A parameter file of nearly that name, there or in a folder `params`."""
    near = {other.name: other for folder in ("params", ".") for other in (path.parent / folder).glob("*.y*ml")}
    close = difflib.get_close_matches(path.name, near, n=1)
    return f": did you mean {near[close[0]]}?" if close and not path.exists() else ""


def read_overrides(assignments: list[str]) -> dict[str, Any]:
    """`key=value` strings of `--set`, values read as YAML. Raises InputError."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key:
            raise InputError(f"--set {assignment}: expected key=value")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {assignment}: the value is not YAML: {error}") from None
    return overrides
