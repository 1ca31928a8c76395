"""Does the visual evidence behind a chest X-ray classifier change under fine-tuning?

`import cxr` gives what a script needs (`cxr.api`); each name is imported when it is first used. Studies are run by
the command `cxr` and by the notebooks; docs/architecture.md says where everything is.
"""

from __future__ import annotations

from typing import Any

__all__ = ["explain", "figure", "load", "overlap", "predict", "read_images"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cxr' has no attribute '{name}'")
    from cxr import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
