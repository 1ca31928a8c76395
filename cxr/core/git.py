"""The commit of a checkout."""

import subprocess
from pathlib import Path


def commit(folder: Path) -> tuple[str, bool] | None:
    """The commit of the git repository around a folder, and whether tracked files differ from it; None outside."""
    try:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    # without locks: a person may be committing at this moment
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
