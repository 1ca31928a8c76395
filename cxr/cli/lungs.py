"""`cxr lungs`: find the lungs on radiographs."""

from __future__ import annotations

import argparse

import shtab

from cxr.cli.parser import add_command, add_set


def add(commands: argparse._SubParsersAction) -> None:
    lungs = add_command(
        commands,
        "lungs",
        run,
        "find the lungs on radiographs, for the zones of the chest",
        """\
Writes a mask of the lungs of each frontal radiograph, a table (lungs.csv), and
contact sheets (sheet_01.png, ...) with the outlines. The network that finds
them was trained on drawn images only. LOOK AT THE SHEETS: delete the masks that
are wrong. An image whose lungs are not plausible gets no mask.""",
        """\
examples:
  cxr lungs images/ lungs/
  cxr study params/paper.yaml --set data=images name=mine lung_mask_folder=lungs
  cxr lungs films.csv lungs/ --set path_column=file patient_column=pid

exit codes: 0; 2 for bad input. docs/lungs.md says how often it is right.""",
    )
    lungs.add_argument("data", metavar="IMAGES", help="folder or table").complete = shtab.FILE
    lungs.add_argument("out", metavar="OUT", help="folder for masks, table and sheets").complete = shtab.DIRECTORY
    add_set(lungs, "the images'")


def run(arguments: argparse.Namespace) -> int:
    from collections import Counter
    from pathlib import Path

    from cxr.cli import quiet
    from cxr.core.params import DataParams, read_overrides

    given = read_overrides(arguments.set, DataParams, {"data": arguments.data})
    settings, out = DataParams.check(given, where="--set"), Path(arguments.out)
    with quiet.tensorflow():
        from cxr.report import lung_masks

        table = lung_masks.write(settings, out)
    refused = table["refused"][table["refused"] != ""]
    print(f"lungs: found on {len(table) - len(refused)} of {len(table)} images")
    for reason, n in Counter(refused.str.replace(r"[\d.]+%?", "N", regex=True)).most_common():
        print(f"  refused {n}: {reason}")
    print(f"look at:    {out / 'sheet_01.png'}, ... and delete masks that are wrong")
    print(f"then use:   --set lung_mask_folder={out}")
    return 0
