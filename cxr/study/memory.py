"""How much memory the notebooks of a study need, before they start: a rough estimate, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.models.size import Size

_BASE = 0.8  # GiB: Python with all libraries
_STATE = 16  # bytes a weight in training: the weight, its gradient and two moments of Adam, float32
_PASS = {"fine-tuning": 1.4, "attribution": 1.3}
"""Memory of a pass over that of all activations of a batch in float32. Measured: docs/speed.md."""
_ROUGH = 1.3  # by how much the estimate may be too high: only what exceeds the memory by more is refused
_GIB = 2**30


def needed(size: Size, study: StudyParams) -> dict[str, float]:
    """GiB that a notebook takes at its peak on a CPU, by stage, for a network of this size.

    Measured peaks lie between 0.77 and 1.25 of it (docs/speed.md). Networks in half precision take less.
    """
    batches = {"fine-tuning": study.batch_size, "attribution": study.attribute_batch_size}
    bytes_of_weights = {"fine-tuning": _STATE, "attribution": 4}
    return {
        stage: _BASE
        + (bytes_of_weights[stage] * size.parameters + 4 * factor * batches[stage] * size.activations) / _GIB
        for stage, factor in _PASS.items()
    }


def check(sizes: Mapping[str, Size], study: StudyParams, *, at_once: int, gib: float) -> str:
    """What the networks need, in a line; a caution where the machine may not have it.

    Args:
        sizes: of each network that is trained.
        at_once: notebooks that run at a time.
        gib: memory of this machine (`of_machine`).

    Raises: InputError if this machine cannot have it.
    """
    needs = {(name, stage): value for name, size in sizes.items() for stage, value in needed(size, study).items()}
    (name, stage), most = max(needs.items(), key=lambda item: item[1])
    batch = study.batch_size if stage == "fine-tuning" else study.attribute_batch_size
    line = f"memory: {stage} {name} takes about {most:.1f} GiB (batches of {batch})"
    line += f", {at_once} notebooks at once up to {at_once * most:.1f}" if at_once > 1 else ""
    line += f"; this machine has {gib:.1f}"
    lower = "batch_size" if stage == "fine-tuning" else "attribute_batch_size"
    advice = f"lower {lower}" + (", or jobs" if at_once > 1 else "")
    if at_once * most > _ROUGH * gib:
        raise InputError(f"{line}: {advice}")
    return f"CAUTION: {line}: if notebooks are killed, {advice}" if at_once * most > gib else line


def of_machine() -> float:
    """GiB of memory that processes here may take together: of the machine, or of the container if that is less."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits) / _GIB
