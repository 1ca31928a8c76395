"""Figures of tables and maps, for notebooks and the report.

Every function takes tables or arrays and returns a Matplotlib figure, at most 7.3 inches wide, with text of at
    least 8 points: so wide is a page of 1100 pixels at 150 dpi. Maps that are compared share one colour scale.
    Intervals are always drawn. The colours suit any colour vision, and a method has the same colour and marker in
    every figure. Missing values (NaN, or a cell without a row) are marked "n/a" in their place; they are never
    drawn as a number.
"""

from cxr.core.display import show_figure as show
from cxr.report.figures.checks import map_checks
from cxr.report.figures.drifts import drift, drift_by_class, pair
from cxr.report.figures.epochs import consistency_course, course
from cxr.report.figures.example_images import examples
from cxr.report.figures.first import first_picture
from cxr.report.figures.forest import answers, consistency, groups
from cxr.report.figures.maps import overlay, regions, tiles
from cxr.report.figures.output import pixels
from cxr.report.figures.rankings import ranking, specification_curve
from cxr.report.figures.statistics import metrics_seen, power
from cxr.report.figures.style import CHECKPOINT_LABELS, COLOURS, METHOD_LABELS
from cxr.report.figures.training import confusion, contact_sheet, history, outlined, performance, reliability
from cxr.report.figures.zones import zones

__all__ = [
    "CHECKPOINT_LABELS",
    "COLOURS",
    "METHOD_LABELS",
    "answers",
    "confusion",
    "consistency",
    "consistency_course",
    "contact_sheet",
    "course",
    "drift",
    "drift_by_class",
    "examples",
    "first_picture",
    "groups",
    "history",
    "map_checks",
    "metrics_seen",
    "outlined",
    "overlay",
    "pair",
    "performance",
    "pixels",
    "power",
    "ranking",
    "regions",
    "reliability",
    "show",
    "specification_curve",
    "tiles",
    "zones",
]
