"""The names of architectures: ours, those of keras.applications, and functions of the user (entry points).

This module does not import TensorFlow, so that parameters are checked quickly.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.core.errors import InputError, first_line


@dataclass(frozen=True)
class Network:
    """How an architecture of a study is built; `cxr.models.build` reads it."""

    function: str  # in `cxr.models.compact`: image tensor -> last feature map; empty: of keras.applications
    channels: int  # of the image that it takes
    preprocessing: str  # a key of `cxr.models.preprocessing.PREPROCESSING`


NETWORKS: dict[str, Network] = {
    "DenseNet201": Network("", 3, "torch"),
    "ResNet50V2": Network("", 3, "tf"),
    "InceptionV3": Network("", 3, "tf"),
    "CompactDenseNet": Network("densenet", 1, "tf"),
    "CompactResNetV2": Network("resnet_v2", 1, "tf"),
    "CompactInception": Network("inception", 1, "tf"),
}
"""The paper's three and their compact networks. To add one: a function in `cxr.models.compact`, and a row here."""
KNOWN: tuple[str, ...] = tuple(NETWORKS)
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Weights:
    """A file of ImageNet weights without the top layer, as Keras downloads it."""

    url: str
    hash: str  # MD5 or SHA-256, hex; empty if Keras has none
    file: str  # its name in the cache of Keras


# Classifier, where its file is (^: in _OTHER_BASE; * stands for _ENDING), its hash, and its name in the cache of
# Keras if that is another. Source: Keras 3.15. MobileNet and MobileNetV2 have a file for each of several image
# sizes; this is the one for 224, which fits all.
_BASE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_OTHER_BASE = "https://storage.googleapis.com/keras-applications/"
_ENDING = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
_TABLE = """
ConvNeXtBase convnext/convnext_base_notop.h5 40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45
ConvNeXtLarge convnext/convnext_large_notop.h5 96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd
ConvNeXtSmall convnext/convnext_small_notop.h5 6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab
ConvNeXtTiny convnext/convnext_tiny_notop.h5 d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1
ConvNeXtXLarge convnext/convnext_xlarge_notop.h5 de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05
DenseNet121 densenet/densenet121* 30ee3e1110167f948a6b9946edeeb738
DenseNet169 densenet/densenet169* b8c4d4c20dd625c148057b9ff1c1176b
DenseNet201 densenet/densenet201* c13680b51ded0fb44dff2d8f86ac8bb1
EfficientNetB0 ^efficientnetb0_notop.h5 50bc09e76180e00e4465e1a485ddc09d
EfficientNetB1 ^efficientnetb1_notop.h5 74c4e6b3e1f6a1eea24c589628592432
EfficientNetB2 ^efficientnetb2_notop.h5 111f8e2ac8aa800a7a99e3239f7bfb39
EfficientNetB3 ^efficientnetb3_notop.h5 af6d107764bb5b1abb91932881670226
EfficientNetB4 ^efficientnetb4_notop.h5 ebc24e6d6c33eaebbd558eafbeedf1ba
EfficientNetB5 ^efficientnetb5_notop.h5 38879255a25d3c92d5e44e04ae6cec6f
EfficientNetB6 ^efficientnetb6_notop.h5 9ecce42647a20130c1f39a5d4cb75743
EfficientNetB7 ^efficientnetb7_notop.h5 cbcfe4450ddf6f3ad90b1b398090fe4a
EfficientNetV2B0 efficientnet_v2/efficientnetv2-b0_notop.h5 893217f2bb855e2983157299931e43ff
EfficientNetV2B1 efficientnet_v2/efficientnetv2-b1_notop.h5 0e80663031ca32d657f9caa404b6ec37
EfficientNetV2B2 efficientnet_v2/efficientnetv2-b2_notop.h5 1dfe2e7a5d45b6632553a8961ea609eb
EfficientNetV2B3 efficientnet_v2/efficientnetv2-b3_notop.h5 f6abf7b5849ac99a89b50dd3fd532856
EfficientNetV2L efficientnet_v2/efficientnetv2-l_notop.h5 b0b66b5c863aef5b46e8608fe1711615
EfficientNetV2M efficientnet_v2/efficientnetv2-m_notop.h5 1b8dc055df72dde80d614482840fe342
EfficientNetV2S efficientnet_v2/efficientnetv2-s_notop.h5 af0682fb74e8c54910f2d4393339c070
InceptionResNetV2 inception_resnet_v2/inception_resnet_v2* d19885ff4a710c122648d3b5c3b684e4
InceptionV3 inception_v3/inception_v3* bcbd6486424b2319ff4ef7d526e38f63
MobileNet mobilenet/mobilenet_1_0_224_tf_no_top.h5 -
MobileNetV2 mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5 -
MobileNetV3Large mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5 07fb09a5933dd0c8eaafa16978110389
MobileNetV3Small mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5 d3e8ec802a04aa4fc771ee12a9a9b836
NASNetLarge nasnet/NASNet-large-no-top.h5 d81d89dc07e6e56530c4e77faddd61b5 nasnet_large_no_top.h5
NASNetMobile nasnet/NASNet-mobile-no-top.h5 1ed92395b5b598bdda52abe5c0dbfd63 nasnet_mobile_no_top.h5
ResNet101 resnet/resnet101* 88cf7a10940856eca736dc7b7e228a21
ResNet101V2 resnet/resnet101v2* c0ed64b8031c3730f411d2eb4eea35b5
ResNet152 resnet/resnet152* ee4c566cf9a93f14d82f913c2dc6dd0c
ResNet152V2 resnet/resnet152v2* ed17cf2e0169df9d443503ef94b23b33
ResNet50 resnet/resnet50* 4d473c1dd8becc155b73f8504c6f6626
ResNet50V2 resnet/resnet50v2* fac2f116257151a9d068a22e544a4917
VGG16 vgg16/vgg16* 6d6bbae143d832006294945121d1f1fc
VGG19 vgg19/vgg19* 253f8cb515780f3b799900260a226db6
Xception xception/xception* b0042744bf5b25fce3cb969f33bebb97
"""  # noqa: E501


def _weights(url: str, hash: str, file: str = "") -> Weights:
    url = url.replace("*", _ENDING)
    url = _OTHER_BASE + url[1:] if url.startswith("^") else _BASE + url
    return Weights(url, hash.strip("-"), file or url.rsplit("/", 1)[-1])


APPLICATIONS: dict[str, Weights] = {
    name: _weights(*rest) for name, *rest in map(str.split, _TABLE.strip().splitlines())
}


def check(name: str) -> str:
    """Return `name` if it names an architecture: one of KNOWN or APPLICATIONS, or `package.module:function`.

    The module is not imported. Raises ValueError with similar names.
    """
    known = [*KNOWN, *(n for n in APPLICATIONS if n not in KNOWN)]
    if name in known or _ENTRY_POINT.fullmatch(name):
        return name
    lower = {n.lower(): n for n in known}
    close = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(KNOWN)}, or"
    raise ValueError(
        f"unknown '{name}': {hint} `cxr models` lists all, and package.module:function is one of your own"
    )


def find(name: str) -> None:
    """Raise InputError if no architecture has this name, or if the module of an entry point is not there."""
    try:
        check(name)
    except ValueError as error:
        raise InputError(f"architecture: {error}") from None
    if is_entry_point(name):
        source(name)


def listing() -> str:
    """All architectures with a name, as text for people."""
    others = [name for name in APPLICATIONS if name not in KNOWN]
    parts = {
        "the paper's": KNOWN[:3],
        "compact, like these": KNOWN[3:],
        "keras.applications": others,
        "your own": ["package.module:function"],
    }
    rows = [
        textwrap.fill(", ".join(names), 100, initial_indent=f"{part:21}", subsequent_indent=" " * 21)
        for part, names in parts.items()
    ]
    return "\n".join(rows)


def is_entry_point(name: str) -> bool:
    """Whether an architecture is a function of the user (`package.module:function`)."""
    return ":" in name


def plain(name: str) -> str:
    """The name without the colon, which is not allowed in names of Keras models and files."""
    return name.replace(":", ".")


def source(name: str) -> Path:
    """The file of the module of an entry point. The module is not imported (packages around it are).

    It is searched as Python does, and in the working folder. Raises InputError if there is none.
    """
    module = name.split(":")[0]
    try:
        with _working_folder():
            spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise InputError(
            f"architecture: there is no module '{module}' for {name}: install it, start in its folder, or "
            "add this folder to PYTHONPATH"
        )
    return Path(spec.origin)


def source_hash(name: str) -> str:
    """SHA-256 (hex) of the file of an entry point, as results depend on it."""
    return hashlib.sha256(source(name).read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def function(name: str) -> Callable[..., Any]:
    """The function of an entry point; its module is imported. Raises InputError if that fails."""
    file = source(name)
    module, _, attribute = name.partition(":")
    try:
        with _working_folder():
            found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"architecture: {name} cannot be imported: {failure(error, file)}") from error
    if not callable(found):
        raise InputError(f"architecture: {file} has no function '{attribute}': correct the name after the colon")
    return found


def failure(error: Exception, file: Path) -> str:
    """An error of the user's code on one line, with the line number in its `file`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    where = f" ({file}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Also find modules in the working folder, last; a command such as `cxr` does not do this itself."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
