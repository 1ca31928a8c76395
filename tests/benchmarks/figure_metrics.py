"""The pictures and tables of docs/metrics.md: pairs of maps that score high and low on every metric.

    cxr study params/study.yaml --set name=metrics phantom_images=600 architecture=[CompactResNetV2] seed=[0,1]
    python tests/benchmarks/figure_metrics.py --study metrics --out docs/metrics

Pairs of real maps (of synthetic images) are those of the images with the highest and the lowest value of the
metric in one cell of that study, LayerCAM of its first seed, ties broken by image id. Beside them stands a pair
that was constructed to differ in one respect (`constructed`). `similarity` computes every value from the very
maps shown. Prints the tables as Markdown.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from cxr import tracking
from cxr.attribution import maps
from cxr.metrics import baselines, map_features, map_grids, metric_table, position, regions, similarity
from cxr.report import comparison
from cxr.report.figures import COLOURS, METHOD_LABELS

METHOD = "layercam"
SIDE = 128  # pixels of the constructed pairs, as of the study's
GRID = 16  # of the constructed pairs
OF_T, OF_F = "white", COLOURS[5]
GROUPS = {
    "position": ["centroid_shift", "peak_shift"],
    "overlap": ["overlap_q05", "overlap_q10", "overlap", "overlap_q30", "soft_iou"],
    "agreement": ["pearson", "spearman", "ssim"],
    "concentration": ["gini_change", "entropy_change", "top10_energy_change"],
}
MARKS = {"position": " Circle: before, cross: after.", "overlap": " White: before, blue: after."}
SHARE = {"overlap_q05": 0.05, "overlap_q10": 0.1, "overlap": 0.2, "overlap_q30": 0.3}
# The constructed pair beside each metric's real ones: the one that sets it apart from its neighbours.
APART = {
    "centroid_shift": "diffuse background",
    "peak_shift": "peaks trade places",
    "overlap_q05": "sharpened",
    "overlap_q10": "smaller lobe gone",
    "overlap": "mostly zeros, disjoint",
    "overlap_q30": "moved by a quarter",
    "soft_iou": "sharpened",
    "pearson": "inverted",
    "spearman": "sharpened",
    "ssim": "fine noise",
    "gini_change": "sharpened",
    "entropy_change": "flattened",
    "top10_energy_change": "smaller lobe gone",
}


def constructed() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs (before, after) of raw maps float64 [GRID, GRID], each different in one respect."""
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) / GRID

    def lobe(row: float, column: float, sd: float = 0.1) -> np.ndarray:
        return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sd**2))

    def moved(by: float) -> np.ndarray:
        return lobe(0.3, 0.3 + by) + 0.6 * lobe(0.7, 0.5 + by)

    rng = np.random.default_rng(0)
    base = moved(0)
    spike = base.copy()
    spike[-3, -3] = 4 * base.max()
    lifted = base + 0.5
    lifted[-1, -1] = 0  # min-max takes off what all cells have; one that lacks it keeps it in
    first, second = lobe(0.3, 0.3), lobe(0.7, 0.7)
    small, other = (np.clip(lobe(0.7, column, 0.06) - 0.1, 0, None) for column in (0.25, 0.75))
    return {
        "identical": (base, base),
        "times 3, plus 5": (base, 3 * base + 5),
        "sharpened": (base, base**3),
        "flattened": (base, base ** (1 / 3)),
        "peaks trade places": (first + 0.97 * second, 0.97 * first + second),
        "smaller lobe gone": (base, lobe(0.3, 0.3)),
        "moved by a sixteenth": (base, moved(1 / 16)),
        "moved by a quarter": (base, moved(1 / 4)),
        "diffuse background": (base, lifted),
        "one hot cell": (base, spike),
        "fine noise": (base, base + 0.1 * rng.standard_normal(base.shape)),
        "inverted": (base, -base),
        "mostly zeros, disjoint": (small, other),
        "independent noise": tuple(rng.random((2, GRID, GRID))),
    }


def constructed_table() -> pd.DataFrame:
    """Every metric (columns) of every constructed pair (rows), at SIDE x SIDE."""
    pairs = constructed()
    map_sets = (np.stack([pair[checkpoint] for pair in pairs.values()]) for checkpoint in (0, 1))
    values = similarity.compare_maps(*map_sets, size=SIDE)
    return pd.DataFrame({name: values[name] for name in metric_table.METRICS}, index=list(pairs))


class Cell:
    """Maps and values of one cell of the study: an architecture, a seed and a method."""

    def __init__(self, study: str):
        runs = [run for run in tracking.find("score", experiment=study) if run.params["method"] == METHOD]
        if not runs:
            raise SystemExit(f"no score run of {METHOD} in the experiment '{study}': run the study first")
        runs.sort(key=lambda run: int(run.params["seed"]))
        self.run, self.others = runs[0], runs[1:]
        self.table = self.run.table("drift.parquet").sort_values("image_id")
        self.size = int(self.run.params["image_size"])
        ids = self.table["image_id"].to_numpy()
        self.folder = tracking.stored(self.run.params["attribute_run"]).file(f"maps/{METHOD}")
        self.before, self.after = (
            maps.take(maps.load(self.folder / f"{checkpoint}.npz"), ids) for checkpoint in ("before", "after")
        )

    @property
    def name(self) -> str:
        params = self.run.params
        return f"{params['architecture']}, {METHOD_LABELS[METHOD]}, seed {params['seed']}"

    def extreme(self, metric: str, highest: bool) -> int:
        """Row with the highest (or lowest) value; the first by image id of equal ones."""
        values = self.table[metric].to_numpy()
        return int(np.nanargmax(values) if highest else np.nanargmin(values))

    def pair(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.before.maps[row], self.after.maps[row]


def draw_pair(
    axes: tuple[Axes, Axes], pair: tuple[np.ndarray, np.ndarray], metric: str, title: str, size: int
) -> float:
    """Both maps, prepared, with what the metric looks at; its value, computed from them, above."""
    prepared = [map_grids.prepare(raw[None], size)[0] for raw in pair]
    features = [map_features.Features(values) for values in prepared]
    value = similarity.score(*features, [metric])[metric]
    for axis, values in zip(axes, prepared, strict=True):
        axis.imshow(values, cmap="inferno", vmin=0, vmax=1)
        axis.axis("off")
    for feature, colour, marker in zip(features, (OF_T, OF_F), "ox", strict=True):
        if metric in SHARE:
            mask = np.zeros(feature.pixels)
            mask[feature.order[: map_features.top_count(SHARE[metric], feature.pixels)]] = 1
            for axis in axes:
                axis.contour(mask.reshape(feature.shape), levels=[0.5], colors=colour, linewidths=1)
        elif metric in ("centroid_shift", "peak_shift"):
            row, column = (position.centroid if metric == "centroid_shift" else position.peak)(feature)
            for axis in axes:
                axis.plot(column, row, marker, color=colour, markersize=7, markerfacecolor="none", mew=1.6)
    axes[0].set_title(title, fontsize=8, loc="left")
    axes[1].set_title(f"{value + 0:.3f}", fontsize=9, loc="right", fontweight="bold")
    return value


def group_figure(cell: Cell, metrics: list[str], marks: str = "") -> Figure:
    """A row a metric: the images with its highest and its lowest value, and a constructed pair."""
    rows = len(metrics)
    figure, axes = plt.subplots(
        rows, 8, figsize=(9, 1.55 * rows + 0.5), layout="constrained", squeeze=False,
        gridspec_kw={"width_ratios": [1, 1, 0.08, 1, 1, 0.08, 1, 1]},
    )  # fmt: skip
    pairs = constructed()
    for line, metric in zip(axes, metrics, strict=True):
        for gap in (line[2], line[5]):
            gap.axis("off")
        for highest, panels in ((True, line[:2]), (False, line[3:5])):
            row = cell.extreme(metric, highest)
            title = f"{metric}, {'highest' if highest else 'lowest'}"
            value = draw_pair(panels, cell.pair(row), metric, title, cell.size)
            logged = cell.table[metric].iloc[row]
            assert abs(value - logged) < 1e-6, (metric, value, logged)
        draw_pair(line[6:], pairs[APART[metric]], metric, f"constructed: {APART[metric]}", SIDE)
    figure.suptitle(
        f"Left of each pair the map before, right the one after, 0 (black) to 1 (yellow).{marks}\n"
        f"Highest and lowest of {len(cell.table)} phantom (synthetic) images: {cell.name}.",
        fontsize=8,
    )
    return figure


def constructed_figure() -> Figure:
    """All constructed pairs, with the metrics by which they are told apart."""
    table = constructed_table()
    figure, axes = plt.subplots(4, 8, figsize=(9, 7.6))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.06, top=0.92, wspace=0.06, hspace=0.6)
    panels = axes.reshape(16, 2)
    for axis in axes.ravel():
        axis.axis("off")
    for (name, pair), two in zip(constructed().items(), panels, strict=False):
        for axis, raw in zip(two, pair, strict=True):
            axis.imshow(map_grids.prepare(raw[None], SIDE)[0], cmap="inferno", vmin=0, vmax=1)
        values = {key: f"{value + 0.0:.2f}" for key, value in table.loc[name].items()}
        two[0].set_title(name, fontsize=8.5, loc="left", fontweight="bold")
        line = (
            f"centroid_shift {table.loc[name, 'centroid_shift'] + 0.0:.3f}, overlap {values['overlap']},\n"
            f"pearson {values['pearson']}, spearman {values['spearman']},\n"
            f"ssim {values['ssim']}, gini_change {values['gini_change']}"
        )
        two[0].text(0, -0.05, line, fontsize=7, va="top", transform=two[0].transAxes)
    figure.suptitle("Constructed pairs: before left, after right, 0 (black) to 1 (yellow)", fontsize=9)
    return figure


def levels_figure(cell: Cell) -> Figure:
    """One image's maps, and the pairs that its baselines compare: the image of the median overlap."""
    order = cell.table["overlap"].rank(method="first")
    row = int(np.flatnonzero(order == (len(order) + 1) // 2)[0])
    before, after = cell.pair(row)
    own = cell.table.iloc[row]
    partner = int(
        baselines.partners(cell.before.class_index, cell.table["patient_id"].to_numpy(), draws=1)[1][row, 0]
    )
    moved = np.roll(after[::-1], after.shape[1] // 2, axis=1)  # one of the moves; a level averages many
    head = maps.take(maps.load(cell.folder / "head_1.npz"), [own["image_id"]]).maps[0]
    pairs = {
        "this image, before against after": (before, after),
        "chance: map after, moved": (before, moved),
        "two patients of one class": (before, cell.after.maps[partner]),
        "two heads": (before, head),
    }
    for other in cell.others[:1]:
        map_set = maps.load(tracking.stored(other.params["attribute_run"]).file(f"maps/{METHOD}") / "after.npz")
        if own["image_id"] in map_set.image_id:
            pairs["two seeds"] = (after, maps.take(map_set, [own["image_id"]]).maps[0])
    figure, axes = plt.subplots(2, 6, figsize=(9, 3.5), layout="constrained")
    for axis in axes.ravel():
        axis.axis("off")
    for (title, pair), panels in zip(pairs.items(), axes.reshape(6, 2), strict=False):
        draw_pair(panels, pair, "overlap", "", cell.size)
        panels[0].set_title(title, fontsize=7.5, loc="left", pad=14)
    figure.suptitle(
        f"What the baselines compare, by the image of the median overlap ({cell.name}; synthetic).\n"
        "The number is the pair's overlap; outlined are the top 20 %, white of the first map, blue of the second.",
        fontsize=8,
    )
    return figure


def regions_figure(cell: Cell) -> Figure:
    """The images whose evidence moved most towards the lesion, and most away from it, by lesion_energy_change."""
    ids, masks = regions.load(tracking.stored(cell.run.params["attribute_run"]).file("regions.npz"))
    figure, axes = plt.subplots(1, 5, figsize=(9, 2.7), layout="constrained", width_ratios=[1, 1, 0.1, 1, 1])
    axes[2].axis("off")
    for highest, panels in ((True, axes[:2]), (False, axes[3:])):
        row = cell.extreme("lesion_energy_change", highest)
        own = cell.table.iloc[row]
        mask = masks["lesion"][np.flatnonzero(ids == own["image_id"])[0]]
        for axis, raw, checkpoint in zip(panels, cell.pair(row), ("before", "after"), strict=True):
            axis.imshow(map_grids.prepare(raw[None], cell.size)[0], cmap="inferno", vmin=0, vmax=1)
            axis.contour(mask, levels=[0.5], colors=COLOURS[5], linewidths=1.2)
            axis.axis("off")
            energy, hit = own[f"lesion_energy_{checkpoint}"], own[f"lesion_hit_{checkpoint}"]
            axis.set_title(f"energy {energy:.2f}, hit {hit:.0f}", fontsize=8)
        panels[0].text(
            0, -0.03, f"lesion_energy_change {own['lesion_energy_change']:+.3f}, area {own['lesion_area']:.3f}",
            fontsize=8, va="top", transform=panels[0].transAxes,
        )  # fmt: skip
    title = f"Energy in the lesion (outlined): the largest gain, the largest loss. {cell.name}; synthetic"
    figure.suptitle(title, fontsize=8)
    return figure


def correlations(study: str) -> pd.DataFrame:
    """Spearman correlation of every two metrics over images, signed changes by their size: mean over cells."""
    found = []
    for run in tracking.find("score", experiment=study):
        table = run.table("drift.parquet")[list(metric_table.METRICS)]
        found.append(table.assign(**table[SIGNED].abs()).corr("spearman"))
    return sum(found) / len(found)


SIGNED = [name for name, metric in metric_table.METRICS.items() if metric.signed]


def correlation_figure(table: pd.DataFrame, what: str) -> Figure:
    figure, axis = plt.subplots(figsize=(6.6, 5.4), layout="constrained")
    shown = axis.imshow(table, cmap="PuOr_r", vmin=-1, vmax=1)
    names = [f"|{name}|" if name in SIGNED else name for name in table]
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for i, j in np.ndindex(table.shape):
        value = table.iloc[i, j]
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(shown, ax=axis, fraction=0.05).set_label("Spearman correlation over images", fontsize=8)
    axis.set_title(what, fontsize=8)
    return figure


def levels_table(cell: Cell) -> pd.DataFrame:
    """Median over images of every metric and of its baselines; absolute for signed metrics' levels."""
    columns = {"this cell": "", "chance": "_chance", "two patients": "_two_patients", "two heads": "_two_heads"}
    columns["as many epochs again"] = "_more_training"
    rows = {}
    for name, metric in metric_table.METRICS.items():
        own, parts = cell.table[name], {title: cell.table[name + suffix] for title, suffix in columns.items()}
        levels = {title: (part.abs() if metric.signed else part).median() for title, part in parts.items()}
        rows[name] = {"identical": metric.identical, **levels, "lowest": own.min(), "highest": own.max()}
    table = pd.DataFrame(rows).T
    values = two_seeds(cell)
    table.insert(
        5,
        "two seeds",
        [
            (values[name].abs() if metric.signed else values[name]).median()
            for name, metric in metric_table.METRICS.items()
        ],
    )
    return table


def two_seeds(cell: Cell) -> pd.DataFrame:
    """Every metric between the maps after of the two seeds, for the images that count under both."""
    (other,) = cell.others[:1]
    images = other.table("drift.parquet")
    images = pd.concat([cell.table, images])[["seed", "image_id", "patient_id"]]
    seeds = {int(run.params["seed"]): run for run in (cell.run, other)}
    map_sets = {
        seed: maps.load(tracking.stored(run.params["attribute_run"]).file(f"maps/{METHOD}") / "after.npz")
        for seed, run in seeds.items()
    }
    names = {
        "architecture": cell.run.params["architecture"],
        "method": METHOD,
        "names": list(metric_table.METRICS),
    }
    return comparison.two_seeds_table(map_sets, images, size=cell.size, **names)


def markdown(table: pd.DataFrame, head: str) -> str:
    lines = [f"| {head} | " + " | ".join(table) + " |", "| --- " * (len(table.columns) + 1) + "|"]
    for name, row in table.iterrows():
        cells = (f"{value:.3f}".replace("-0.000", "0.000") for value in row)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(figure: Figure, path: Path) -> None:
    """As a PNG in the colours that the figures are made of, which takes a third of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    heat = plt.get_cmap("inferno")(np.linspace(0, 1, 200))[:, :3]
    grey = np.repeat(np.linspace(0, 1, 32)[:, None], 3, axis=1)
    blue = np.array(to_rgb(OF_F))
    tints = [blue * share + ground * (1 - share) for ground in (0.0, 1.0) for share in np.linspace(0.25, 1, 12)]
    palette = Image.new("P", (1, 1))
    palette.putpalette((np.concatenate([heat, grey, tints]) * 255).round().astype(np.uint8).tobytes())
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="metrics", help="name of the study (default: metrics)")
    parser.add_argument("--out", type=Path, default=Path("docs/metrics"), help="folder (default: docs/metrics)")
    arguments = parser.parse_args()
    tracking.connect()
    cell = Cell(arguments.study)
    for name, metrics in GROUPS.items():
        save(group_figure(cell, metrics, MARKS.get(name, "")), arguments.out / f"{name}.png")
    save(constructed_figure(), arguments.out / "constructed.png")
    save(levels_figure(cell), arguments.out / "levels.png")
    save(regions_figure(cell), arguments.out / "regions.png")
    table = correlations(arguments.study)
    what = f"mean over the cells of the study '{arguments.study}' ({len(cell.others) + 1} seeds, two methods)"
    correlation_figure(table, what).savefig(arguments.out / "correlations.png", dpi=80)
    print("\n" + markdown(constructed_table(), "pair"))
    print("\n" + markdown(levels_table(cell), "metric") + "\n\n" + cell.name, len(cell.table), "images")
    print(cell.table.filter(regex="^(lesion|lung)_").median().round(3).to_string())


if __name__ == "__main__":
    main()
