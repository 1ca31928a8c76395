"""Builds networks to see whether they can be had: `python -m cxr.study.building NETWORKS`.

NETWORKS are the arguments of `cxr.models.description.check`, as a JSON list. The last line of what it prints is a
JSON mapping: `sizes` (`cxr.models.size.Size`, one a network), or `error`, the message of the first InputError.
"""

import json
import sys

from cxr.core.errors import InputError

if __name__ == "__main__":
    from cxr.models import description  # loads TensorFlow

    try:
        answer = {"sizes": [description.check(one.pop("architecture"), **one) for one in json.loads(sys.argv[1])]}
    except InputError as error:
        answer = {"error": str(error)}
    print("\n" + json.dumps(answer))
