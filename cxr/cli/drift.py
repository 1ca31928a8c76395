"""`cxr drift`: compare two models of the user's own."""

from __future__ import annotations

import argparse
import functools

import shtab

from cxr.cli.parser import add_command, add_set, add_tracking_uri, count
from cxr.core.methods import SCORES


def add(commands: argparse._SubParsersAction) -> None:
    drift = add_command(
        commands,
        "drift",
        run,
        "measure the drift between two models of your own",
        """\
Explains the same images with the model before (A) and the model after (B), and
measures how far the evidence moved, beside baselines. Nothing is trained. Both
models can come from anywhere: Keras 3 must load them, and they must end in
Dense (softmax or sigmoid). Prints the answer, and writes a report page, a table
of all images, a figure, and an MLflow run with everything.

IMAGES is one of: a folder with one sub-folder per class; a folder of images
without labels; a table (CSV or Parquet) with the columns path, patient_id and,
if known, label; the word phantom. With labels, the true class is explained, on
images that both models get right. Without labels, the class that B predicts is
explained, on all images.""",
        """\
examples:
  cxr drift before.keras after.keras images/
  cxr drift before.keras after.keras test.csv --method layercam,gradcampp
  cxr drift A.keras B.keras images/ --layer block5_conv3 --preprocessing caffe
  cxr drift A.keras B.keras images/ --like-a A2.keras --like-b B2.keras
  cxr drift A.keras B.keras images/ --gate 'overlap_median>=0.5'
  cxr drift A.keras B.keras images/ --module my_layers.py
  cxr drift A.keras B.keras films.csv --set path_column=file patient_column=pid

exit codes: 0; 1 when a gate or the notebook fails; 2 for bad input.
docs/drift.md explains the output, and has a step for your CI.""",
    )
    for name, metavar, what in (
        ("model_a", "A", "the model before: a .keras file, or a whole model as .h5"),
        ("model_b", "B", "the model after"),
        ("data", "IMAGES", "folder, table, or the word phantom"),
    ):
        drift.add_argument(name, metavar=metavar, help=what).complete = shtab.FILE
    # An option that is not given is not set: the notebook has the defaults.
    option = functools.partial(drift.add_argument, default=argparse.SUPPRESS)
    named = functools.partial(option, metavar="NAME")
    named(
        "--layer",
        dest="target_layer",
        help="penultimate (default), shallower, final, last_conv, or a layer's name",
    )
    named("--layer-b", dest="target_layer_b", help="the layer of B, if it has another name there")
    names = functools.partial(option, metavar="NAMES", type=_names)
    names("--method", help="one or several, separated by commas (default: layercam)")
    names("--classes", dest="class_names", help="in the order of the outputs (default: the labels, sorted)")
    option(
        "--labels",
        choices=("auto", "none"),
        dest="image_labels",
        help="none: sub-folders are not classes; images are read from all levels",
    )
    option(
        "--split",
        choices=("train", "val", "test"),
        dest="use_split",
        help="use the images of this split only (default: all)",
    )
    option(
        "--explain",
        choices=("true", "predicted", "predicted_a"),
        help="the true class (default, with labels), or the class that B or A predicts",
    )
    option("--score", choices=SCORES, help="what maps explain of that class (default: its log-odds)")
    option(
        "--images",
        choices=("correct", "all"),
        help="which images are scored: those for which both models predict the explained class (default, with "
        "labels), or all",
    )
    for key, model in (("a", "A"), ("b", "B")):
        option(
            f"--like-{key}",
            metavar="MODEL",
            action="append",
            help=f"{model}, trained again with another seed: adds a baseline; repeatable",
        ).complete = shtab.FILE
    option(
        "--module",
        metavar="FILE",
        help="a Python file that defines layers or functions of the models; its code is run, so give only a file "
        "that you trust",
    ).complete = shtab.FILE
    option(
        "--preprocessing",
        metavar="MODE",
        help="what the models expect of grey values: none, tf, torch, caffe, unit (default: detected)",
    )
    for name, key, what in (
        ("--image-size", "image_size", "side in pixels (default: the models')"),
        ("--batch-size", "batch_size", "images per batch (default: 32)"),
        ("--map-checks", "map_check_images", "at most so many images check the maps (default: 100; 0: no checks)"),
        ("--draws", "baseline_draws", "how many other images each image is compared with (default: 4)"),
        ("--n-boot", "n_boot", "bootstrap replicates (default: 2000)"),
        ("--seed", "seed", "of bootstrap and draws (default: 0)"),
    ):
        option(name, metavar="N", type=count, dest=key, help=what)
    option("--level", metavar="SHARE", type=float, help="level of the intervals (default: 0.95)")
    option(
        "--gate",
        metavar="EXPR",
        action="append",
        help="a condition in quotes, such as 'overlap_median>=0.5': exit code 1 unless it holds; repeatable",
    )
    named("--name", help="MLflow experiment (default: drift)")
    add_set(drift, "the notebook's")
    add_tracking_uri(drift)
    for name, default, what in (
        (
            "--out",
            "drift.parquet",
            "table of all images, .parquet or .csv (default: drift.parquet); beside it, as .html, the report page",
        ),
        ("--figure", "", "the figure, .png or .pdf (default: beside --out, as .png)"),
    ):
        drift.add_argument(name, metavar="FILE", default=default, help=what).complete = shtab.FILE


def run(arguments: argparse.Namespace) -> int:
    from cxr.core.params import DriftParams, read_overrides

    values = {key: value for key, value in vars(arguments).items() if key in DriftParams.model_fields}
    settings = DriftParams.check(read_overrides(arguments.set, DriftParams, values), where="cxr drift")
    from cxr.pair import command  # loads MLflow, which takes seconds: only after the parameters are checked

    return command.run(settings, out=arguments.out, figure=arguments.figure, tracking_uri=arguments.tracking_uri)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
