"""Names of classes as MLflow takes them: in keys of metrics and of images."""

import posixpath
import re
import unicodedata

from cxr.core.errors import InputError

_LONGEST = 150  # characters of a class in a metric's name; MLflow takes 250 for the whole name


def key(name: str) -> str:
    """A name with only ASCII letters, digits and `_-. /`, as MLflow allows in keys.

    Letters of other scripts become their code, as in u6b63 for 正: two names stay two names. All else, also Latin
    letters with accents, becomes _.
    """
    return re.sub(r"[^0-9A-Za-z_\-. /]", lambda found: _code(found[0]), name)


def _code(character: str) -> str:
    latin = unicodedata.name(character, "").startswith("LATIN ")
    return f"u{ord(character):x}" if character.isalnum() and not latin and ord(character) > 127 else "_"


def metric_name(name: str) -> str:
    """A class name as part of an MLflow metric name, by `key`.

    MLflow allows ASCII letters, digits, underscore, hyphen, dot, space and slash. It also refuses names that
    change when read as a path ("a//b", "a/../b", a trailing slash). In such a name the slashes become _ too.
    """
    name = key(name)
    whole = f"auc_{name}"  # a leading slash is fine behind a prefix
    return name if posixpath.normpath(whole) == whole else name.replace("/", "_")


def metric_names(classes: list[str]) -> list[str]:
    """`metric_name` of each class. Raises InputError if two are the same, or one cannot name a metric."""
    found = [metric_name(name) for name in classes]
    for i, name in enumerate(found):
        if not name or name == "macro" or len(name) > _LONGEST:
            raise InputError(f"classes: {classes[i]!r} cannot name a class's metrics; rename the class.")
        if name in found[:i]:
            raise InputError(
                f"classes: {classes[found.index(name)]!r} and {classes[i]!r} are both {name!r} as metric "
                "names; rename one of them."
            )
    return found
