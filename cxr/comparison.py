"""Comparison of score runs: pooled tables, rankings, and the paper's claims beside what a study found.

Pure pandas over the per-image tables of score runs; nothing here reads a file or a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr import inference
from cxr.drift import METRICS
from cxr.errors import InputError

if TYPE_CHECKING:
    from cxr.tracking import RunInfo

CELL = ["architecture", "method"]
# What a study prints, and how it heads it.
HEADLINE = {
    "auc_macro_transfer": "AUC transfer",
    "auc_macro_fine_tuned": "AUC fine-tuned",
    "centroid_shift_median": "centroid shift",
    "iou20_median": "IoU of top 20%",
    "iou20_ci_low": "low",
    "iou20_ci_high": "high",
    "n_images": "images",
    "n_degenerate": "degenerate maps",
}
# The families of the paper, by which its claims about one architecture are looked up among the compact kin.
FAMILIES = {
    "DenseNet": ("DenseNet201", "CompactDenseNet"),
    "ResNetV2": ("ResNet50V2", "CompactResNetV2"),
    "Inception": ("InceptionV3", "CompactInception"),
}
PAPER_AUC = 0.99


def score_table(
    drift: dict[str, np.ndarray], images: pd.DataFrame, *, architecture: str, seed: int, method: str
) -> pd.DataFrame:
    """The per-image table of a score run: the cell's name, the rows of `images` (image_id, patient_id, label, ...)
    and every column of `drift` (`cxr.drift.compare_maps`), which is in the same order."""
    head = images.reset_index(drop=True)
    cell = pd.DataFrame({"architecture": architecture, "seed": seed, "method": method}, index=head.index)
    return pd.concat([cell, head, pd.DataFrame(drift)], axis=1)


def summarise(
    table: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000, rng_seed: int = 0
) -> dict[str, float]:
    """Summary of the per-image rows of one cell, of one seed or several.

    For every metric of `cxr.drift.METRICS`: `<name>_median`, `_q25`, `_q75`, and `_ci_low`, `_ci_high`, the
    percentile interval of the median by bootstrap over seeds, patients and images (seeds crossed with patients:
    they share the test set). Counts: n_images, n_scored (neither map degenerate), n_degenerate,
    n_degenerate_transfer, n_degenerate_fine_tuned, n_patients (of all images), n_seeds. Rows with a
    degenerate map count as images and in no median.
    """
    flags = table[["degenerate_transfer", "degenerate_fine_tuned"]]
    out = {
        "n_images": len(table),
        "n_scored": int((~flags.any(axis=1)).sum()),
        "n_degenerate": int(flags.any(axis=1).sum()),
        "n_degenerate_transfer": int(flags["degenerate_transfer"].sum()),
        "n_degenerate_fine_tuned": int(flags["degenerate_fine_tuned"].sum()),
        "n_patients": int(table["patient_id"].nunique()),
        "n_seeds": int(table["seed"].nunique()),
    }
    for name in METRICS:
        values = inference.summarise(
            table[name].to_numpy(float),
            table["patient_id"].to_numpy(),
            seed=table["seed"].to_numpy() if out["n_seeds"] > 1 else None,
            level=level,
            n_boot=n_boot,
            rng_seed=rng_seed,
            crossed=True,
        )
        for part in ("median", "q25", "q75", "ci_low", "ci_high"):
            out[f"{name}_{part}"] = values[part]
    return out


def pooled(
    scores: pd.DataFrame, runs: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000
) -> pd.DataFrame:
    """One row an architecture and method, over all seeds.

    Args:
        scores: per-image rows of all score runs (`score_table`).
        runs: one row a score run: architecture, method, seed, auc_macro_transfer, auc_macro_fine_tuned.

    Returns: architecture, method, seeds, the mean AUC of both stages over seeds, then `summarise`'s columns.
    """
    rows = []
    for (architecture, method), table in scores.groupby(CELL, sort=False):
        own = runs[(runs["architecture"] == architecture) & (runs["method"] == method)]
        rows.append(
            {
                "architecture": architecture,
                "method": method,
                "seeds": own["seed"].nunique(),
                "auc_macro_transfer": own["auc_macro_transfer"].mean(),
                "auc_macro_fine_tuned": own["auc_macro_fine_tuned"].mean(),
                **summarise(table, level=level, n_boot=n_boot),
            }
        )
    return pd.DataFrame(rows)


def headline(summary: pd.DataFrame) -> pd.DataFrame:
    """The columns of `pooled` that the study prints."""
    return summary[["architecture", "method", "seeds", *HEADLINE]]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of results as text for people: headings, counts whole, other numbers with three decimals, missing
    ones as "-", and each interval in brackets behind its median."""
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.endswith(("_ci_low", "_ci_high")):
            continue
        texts = [_cell(name, value) for value in table[name].tolist()]
        stem = name.removesuffix("_median")
        if f"{stem}_ci_low" in table and name.endswith("_median"):
            bounds = zip(table[f"{stem}_ci_low"], table[f"{stem}_ci_high"], strict=True)
            ranges = [f"[{_cell(name, low)}, {_cell(name, high)}]" for low, high in bounds]
            texts = [f"{text} {limits}" for text, limits in zip(texts, ranges, strict=True)]
        shown[HEADLINE.get(name, stem)] = texts
    return shown


def text(shown: pd.DataFrame) -> str:
    """A table of strings for the terminal: names left, numbers right."""
    lines: list[list[str]] = [[] for _ in range(len(shown) + 1)]
    for name in shown.columns:
        texts = [name, *shown[name]]
        width = max(map(len, texts))
        left = name in ("architecture", "method")
        for line, item in zip(lines, texts, strict=True):
            line.append(item.ljust(width) if left else item.rjust(width))
    return "\n".join("  ".join(line).rstrip() for line in lines)


def html(shown: pd.DataFrame) -> str:
    """A table for the report: text left and wrapped, escaped."""
    rule = "text-align: left !important; white-space: normal; vertical-align: top"
    style = f"<style>.cxr td, .cxr th {{{rule}}}</style>"
    return style + shown.to_html(index=False, border=0, classes="cxr", escape=True)


def _cell(name: str, value: float | str | None) -> str:
    if value is None or value != value:
        return "-"
    if name.startswith(("n_", "seed")):
        return f"{float(value):.0f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def replicates(scores: pd.DataFrame, metric: str, *, n_boot: int = 2000) -> pd.DataFrame:
    """Bootstrap medians of `metric` in every cell from the same draws (`cxr.inference.paired_replicates`)."""
    tables = {
        cell: table[["image_id", "patient_id", "seed"]].assign(value=table[metric].to_numpy(float))
        for cell, table in scores.groupby(CELL, sort=False)
    }
    return inference.paired_replicates(tables, n_boot=n_boot, crossed=True)


def ranking(
    summary: pd.DataFrame, metric: str, draws: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[dict[str, str | float]]]:
    """Ranks (1: most stable) and reversals between each two methods.

    Args:
        summary: `pooled`.
        metric: a metric with a direction (`higher_is_more_stable` is not None).
        draws: `replicates` of the metric, or None if they could not be had.

    Returns: (one row an architecture; a column a method, and `P(<method>)`, the bootstrap probability of that
        rank), and the reversals of `cxr.inference.reversals` with `method_a`, `method_b` added.
    Raises: InputError for a metric without a direction.
    """
    higher = METRICS[metric].higher_is_more_stable
    if higher is None:
        raise InputError(f"primary_metric: {metric} has no direction of stability: use another, such as iou20")
    values = summary[CELL].assign(value=summary[f"{metric}_median"], higher_is_more_stable=higher)
    ranks = inference.order(values)
    methods = list(ranks.columns)
    if draws is not None:
        probability = inference.rank_probabilities(draws, higher_is_more_stable=higher)
        for method in methods:
            ranks[f"P({method})"] = [
                probability.at[(method, name), int(rank)] if rank == rank and rank == int(rank) else np.nan
                for name, rank in ranks[method].items()
            ]
    found = []
    for number, method_a in enumerate(methods):
        for method_b in methods[number + 1 :]:
            for row in inference.reversals(values, method_a, method_b, replicates=draws):
                found.append({"method_a": method_a, "method_b": method_b, **row})
    return ranks, found


def claims(
    summary: pd.DataFrame,
    ranks: pd.DataFrame,
    reversals: Sequence[dict[str, str | float]],
    *,
    metric: str,
    methods_coincide: bool,
    auc_margin: float,
    level: float = 0.95,
) -> pd.DataFrame:
    """The paper's claims (Elangovan and Ting 2026, arXiv 2604.08513, abstract) beside what the study found.

    Says what was observed, point estimates with their intervals; it tests nothing.
    Columns: claim, this study.
    """
    rows = [
        (f"All architectures end above {PAPER_AUC} macro AUC", _auc_text(summary, auc_margin)),
        (
            "Coarse localisation stays put: the centroid hardly moves",
            _cells_text(summary, "centroid_shift", "{:.3f} of the image diagonal", level),
        ),
        (
            "Overlap shows reorganisation that depends on the architecture",
            _cells_text(summary, metric, "{:.2f}", level),
        ),
        ("Under LayerCAM, InceptionV3 moves most and ResNet50V2 least", _extremes_text(ranks, metric)),
        (
            "The stability ranking can reverse under Grad-CAM++",
            _reversal_text(ranks, reversals, methods_coincide, metric),
        ),
    ]
    return pd.DataFrame(rows, columns=["the paper's claim", "this study"])


def _auc_text(summary: pd.DataFrame, margin: float) -> str:
    parts = []
    for name, own in summary.groupby("architecture", sort=False):
        before, after = own["auc_macro_transfer"].iloc[0], own["auc_macro_fine_tuned"].iloc[0]
        change = after - before
        verdict = "within" if abs(change) <= margin else "beyond"
        parts.append(f"{name}: {before:.3f} → {after:.3f} ({change:+.3f}, {verdict} ±{margin:g})")
    above = (summary.groupby("architecture")["auc_macro_fine_tuned"].first() > PAPER_AUC).sum()
    return f"{above} of {len(parts)} above {PAPER_AUC} after fine-tuning. " + "; ".join(parts)


def _cells_text(summary: pd.DataFrame, metric: str, form: str, level: float) -> str:
    parts = []
    for method, own in summary.groupby("method", sort=False):
        cells = [
            f"{row['architecture']} {form.format(row[f'{metric}_median'])} "
            f"[{row[f'{metric}_ci_low']:.3g}, {row[f'{metric}_ci_high']:.3g}]"
            for _, row in own.iterrows()
        ]
        parts.append(f"{method}: " + ", ".join(cells))
    return f"Median {METRICS[metric].name} [{level:.0%} interval]. " + "; ".join(parts)


def _extremes_text(ranks: pd.DataFrame, metric: str) -> str:
    if "layercam" not in ranks:
        return "LayerCAM was not part of this study"
    if len(ranks) < 2:
        return "One architecture has no ranking"
    order = ranks["layercam"].sort_values()
    most, least = order.index[-1], order.index[0]
    text = f"By {metric}, {most} moves most and {least} least"
    if "P(layercam)" in ranks:
        probability = ranks["P(layercam)"]
        text += f" (P = {probability[most]:.2f} and {probability[least]:.2f} over bootstrap replicates)"
    family = {name: key for key, names in FAMILIES.items() for name in names}
    same = [family.get(most) == "Inception", family.get(least) == "ResNetV2"]
    agreement = "as in the paper" if all(same) else "half as in the paper" if any(same) else "unlike the paper"
    return f"{text}: {agreement}"


def _reversal_text(ranks: pd.DataFrame, reversals: Sequence[dict], methods_coincide: bool, metric: str) -> str:
    methods = [column for column in ranks.columns if not column.startswith("P(")]
    if len(methods) < 2 or len(ranks) < 2:
        return "Needs two methods and two architectures"
    if methods_coincide:
        return (
            "Cannot be asked at the last feature map: behind global average pooling Grad-CAM++ and LayerCAM are "
            "the same map up to scale. Use target_layer: penultimate"
        )
    if not reversals:
        return f"No pair of architectures changes its order in {metric} between the methods"
    parts = [
        f"{row['stabler_a']} is the stabler under {row['method_a']} and {row['stabler_b']} under "
        f"{row['method_b']} (P of both at once {row['p_reversal']:.2f})"
        for row in reversals
    ]
    return f"Order by median {metric} changes: " + "; ".join(parts)


def run_table(infos: Sequence[RunInfo]) -> pd.DataFrame:
    """One row a score run, from what it logged: run_id, architecture, method, seed, target_layer, layer, grid,
    methods_coincide, auc_macro_transfer and auc_macro_fine_tuned.

    Raises InputError when two runs are of one cell, or their target layers differ."""
    columns = ("architecture", "method", "seed", "target_layer", "layer", "grid", "methods_coincide")
    performance = ("auc_macro_transfer", "auc_macro_fine_tuned")
    table = pd.DataFrame(
        [
            {
                "run_id": info.run_id,
                **{column: info.params[column] for column in columns},
                **{metric: info.metrics[metric] for metric in performance},
            }
            for info in infos
        ]
    )
    twice = table[table.duplicated(["architecture", "method", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"score_run_ids: two runs are of {row['architecture']}, {row['method']}, seed {row['seed']}: name one"
        )
    layers = sorted(set(table["target_layer"]))
    if len(layers) > 1:
        raise InputError(f"score_run_ids: target layers {', '.join(layers)} cannot be pooled: name runs of one")
    return table


def latest_cells(infos: Sequence[RunInfo]) -> list[str]:
    """Ids of the newest run of every architecture, seed and method among `infos` (newest first), all of the newest
    run's images, settings and target layer. Raises InputError when there is none."""
    if not infos:
        raise InputError("no finished score run in the experiment: run 3_score.ipynb first, or set `name`")
    same = ("target_layer", "image_size", "weights", "images", "explain")
    newest = {key: infos[0].params[key] for key in same}
    cells: dict[tuple[str, ...], str] = {}
    for info in infos:
        if all(info.params[key] == value for key, value in newest.items()):
            cell = tuple(info.params[key] for key in ("architecture", "seed", "method"))
            cells.setdefault(cell, info.run_id)
    return [cells[cell] for cell in sorted(cells)]
