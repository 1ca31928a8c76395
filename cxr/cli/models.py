"""`cxr models`: which networks there are."""

from __future__ import annotations

import argparse

from cxr.cli.parser import add_command, count


def add(commands: argparse._SubParsersAction) -> None:
    models = add_command(
        commands,
        "models",
        run,
        "list the networks, or describe some of them",
        """\
Without a name, lists all networks that a study can use. With names, shows for
each network its preprocessing, parameters, target layers with their
resolutions, and why these layers.""",
        """\
examples:
  cxr models
  cxr models MobileNetV2 --image-size 128
  cxr models my_net:classifier

docs/models.md says how to use a network of your own.""",
    )
    models.add_argument("names", metavar="NAME", nargs="*", help="networks, or package.module:function")
    models.add_argument("--image-size", metavar="N", type=count, default=224, help="side in pixels (default: 224)")


def run(arguments: argparse.Namespace) -> int:
    from cxr.cli import quiet
    from cxr.core import architectures
    from cxr.core.terminal import wrapped

    if not arguments.names:
        print(architectures.listing())
        return 0
    for name in arguments.names:  # before TensorFlow, which takes seconds to load
        architectures.find(name)
    with quiet.tensorflow():
        from cxr.models import build, description

        for name in arguments.names:
            found = description.describe(build.build(name, n_classes=2, image_size=arguments.image_size))
            print(wrapped(found.lines(), hang=17), flush=True)
    return 0
