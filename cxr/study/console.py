"""What a study prints: lines above the progress bar, and how long things took."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Print lines at once; above the progress bar, if there is one. A message stays one line, to be searched."""
    tqdm.write(text)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def killed(what: str, code: int) -> str:
    """What the negative exit code of a child process means."""
    return f"{what} was killed (signal {-code}). The system does that when memory is short"
