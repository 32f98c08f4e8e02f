"""The command `excitation-jax`: demo, explain, compare, eval, train, layers and so on.

Here are the arguments, the progress bar and the errors; what the commands do is in `commands`,
which imports JAX and is only imported to run one: --help and a mistyped option answer at once.
Names of networks and methods are looked up then, too. Whatever the user can get wrong arrives here
as a ValueError, an OSError or an ImportError with a message that says what to do, and leaves as one
line and exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from .. import __version__
from . import evaluation_options, rule_sets, train_options
from .class_names import MOST_TARGETS

PROGRAM = "excitation-jax"
# The optional modules that each of the package's extras brings.
_EXTRAS = {
    "plots": ("PIL", "rich", "matplotlib"),
    "data": ("sklearn",),
    "weights": ("safetensors", "google"),
    "hub": ("huggingface_hub",),
    "eval": ("grain", "pycocotools", "tensorstore"),
    "proposals": ("cv2",),
}
_EXTRA_OF = {module: extra for extra, modules in _EXTRAS.items() for module in modules}

_NETWORK = "the network: one that `excitation-jax models` lists"
_WEIGHTS = (
    "the network's weights: a .safetensors, .caffemodel or .npz file, the directory of a "
    "checkpoint, or hub:org/name"
)

_DEMO_SEED = 14  # three digits, all of them easy to see


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    argv: the arguments after the program's name; None takes the process's own.

    0: done; 2: the input was bad and stderr has one line that says how; 130: interrupted.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what it has to say
        return int(stop.code or 0)
    debug = arguments.debug or os.environ.get("EXCITATION_JAX_DEBUG") == "1"
    try:
        with _progress(arguments.stages) as announce:
            announce("loading JAX")
            from . import commands

            report = commands.run(arguments, announce)
        print(report, flush=True)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        message = _message(error)
        if debug or message is None:
            raise
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake gets one line and not the usage as well."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    """The whole command line; parsing yields `command`, `stages`, `debug` and its arguments."""
    parser = _Parser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Where does a network look for a class? Attention maps by Excitation "
        "Backprop,\nfor less than the price of one gradient.",
        epilog=textwrap.dedent("""\
            start here:
              excitation-jax demo
                  needs no data and no network: a picture of what a small model sees
              excitation-jax explain cat.jpg --model squeezenet --weights squeezenet_v1_0.npz
                  the same for a photograph of yours

            Every command has its own help: excitation-jax explain --help
            """),
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_debug(parser, False)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )

    def command(name: str, stages: int, summary: str, description: str) -> _Parser:
        sub: _Parser = commands.add_parser(
            name,
            help=summary,
            description=textwrap.dedent(description),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Without a default, or it would undo a --debug before the command.
        _add_debug(sub, argparse.SUPPRESS)
        sub.set_defaults(stages=stages)
        return sub

    _add_demo(
        command(
            "demo",
            5,
            "explain the built-in digits model on one scene",
            """\
            Shows the built-in model one cluttered scene of handwritten digits that it never
            saw, and writes one picture: the scene, the model's scores, and for every digit in
            the scene two maps of where the model found it. MWP, marginal winning probability,
            is what speaks for the digit; c-MWP, contrastive, is what speaks for it and for no
            other class.

              excitation-jax demo
              excitation-jax demo --seed 7 --out seven.png
            """,
        )
    )
    _add_explain(
        command(
            "explain",
            5,
            "explain a network's classes on a photograph",
            """\
            Writes one picture, the photograph and a map painted over it for every class asked
            for, and prints the classes with their scores.

              excitation-jax explain cat.jpg --model squeezenet --weights squeezenet_v1_0.npz
              excitation-jax explain cat.jpg --model squeezenet --weights squeezenet_v1_0.npz \\
                  --classes imagenet_classes.txt --target "tabby cat" --out tabby.png
              excitation-jax explain cat.jpg --model squeezenet --weights squeezenet_v1_0.npz \\
                  --target top5 --layer pool8 --no-contrastive
            """,
        )
    )
    _add_compare(
        command(
            "compare",
            12,
            "several methods side by side on a photograph",
            """\
            Writes one picture: the photograph and, for each method, a map painted over it with the
            time that it took.

              excitation-jax compare cat.jpg --model squeezenet --weights squeezenet_v1_0.npz
              excitation-jax compare cat.jpg --model squeezenet --weights squeezenet_v1_0.npz \\
                  --methods mwp,c-mwp,gradcam,guided-backprop,lrp --target top2
              excitation-jax compare cat.jpg --model resnet50 --weights resnet50.safetensors \\
                  --methods c-mwp --layer layer2_0 --rules-set excitation,residual
            """,
        )
    )
    evaluation = command("eval", 0, evaluation_options.SUMMARY, evaluation_options.DESCRIPTION)
    evaluation.set_defaults(command="evaluate")  # eval is Python's own
    evaluation_options.add(
        evaluation, _NETWORK, _WEIGHTS, lambda p: _add_debug(p, argparse.SUPPRESS)
    )
    train_options.add(
        command("train", 0, train_options.SUMMARY, train_options.DESCRIPTION), _NETWORK, _WEIGHTS
    )
    layers = command(
        "layers",
        3,
        "list the layers that a map can be read at",
        """\
        Prints everything that explain's --layer accepts: its name, shape, stride and offset in
        pixels (where the first cell looks), and the lower bound of its values.

          excitation-jax layers --model squeezenet
        """,
    )
    _add_model(layers, "optional: the names do not depend on the weights")
    listing = command(
        "models",
        2,
        "list the networks",
        """\
        Prints what --model accepts: each network's name, the side of its input in pixels, its
        number of classes, and whose weights it reads.
        """,
    )
    listing.set_defaults(command="list_models")
    listing = command(
        "methods",
        2,
        "list the methods",
        """\
        Prints what --methods accepts: each method's name, its title in tables and pictures, and
        who proposed it.
        """,
    )
    listing.set_defaults(command="list_methods")
    _add_import(
        command(
            "import-weights",
            3,
            "turn another framework's weights into a checkpoint",
            """\
            Reads the weights of a network and writes them as an Orbax checkpoint, a directory
            that --weights takes. Nothing is ever unpickled; a name or a shape that does not fit
            is an error that lists every such, and nothing is written.

              excitation-jax import-weights resnet50.safetensors --model resnet50 --out resnet50
              excitation-jax import-weights net.caffemodel --model googlenet_caffe --out googlenet
              excitation-jax import-weights hub:timm/resnet50.a1_in1k --model resnet50 --out r50
            """,
        )
    )
    return parser


def _add_import(importing: _Parser) -> None:
    importing.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    importing.add_argument("--model", required=True, metavar="NAME", help=f"{_NETWORK}, but digits")
    importing.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the checkpoint to write"
    )
    importing.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="of the weights, where it is not the network's own number",
    )
    importing.add_argument(
        "--overwrite", action="store_true", help="replace a checkpoint that is there"
    )


def _add_demo(demo: _Parser) -> None:
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("excitation_demo.png"),
        metavar="FILE",
        help="the picture to write, .png, .jpg or .webp (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=int,
        default=_DEMO_SEED,
        metavar="N",
        help="which scene: 0, 1, 2, ... (default: %(default)s)",
    )


def _add_explain(explain: _Parser) -> None:
    _add_question(explain, "excitation")
    explain.add_argument(
        "--layer",
        metavar="NAME|auto",
        help="where to read the map: a name that `excitation-jax layers` lists, or auto, the "
        "highest one that is still fine enough to localise (default: the layer that the papers "
        "read for this network, or auto)",
    )
    explain.add_argument(
        "--contrastive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show what speaks for the class and for no other (c-MWP), or all that speaks for "
        "it (MWP) (default: contrastive)",
    )


def _add_compare(compare: _Parser) -> None:
    _add_question(compare, "methods")
    compare.add_argument(
        "--methods",
        default="mwp,c-mwp,gradient,guided-backprop,grad-cam,lrp",
        metavar="NAMES",
        help="the methods, with commas between them (default: %(default)s; `excitation-jax "
        "methods` lists all)",
    )
    compare.add_argument(
        "--layer",
        metavar="NAME|auto|last",
        help="read every method that can be read at a layer at this one (default: each at the "
        "layer that suits it)",
    )
    compare.add_argument(
        "--rules-set", default=rule_sets.DEFAULT, metavar="NAMES", help=rule_sets.HELP
    )


def _add_question(parser: _Parser, suffix: str) -> None:
    """The arguments of what is asked about a photograph."""
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="the photograph to explain")
    _add_model(parser, "digits brings its own")
    parser.add_argument(
        "--target",
        default="top1",
        metavar="NAME|INDEX|topK",
        help="the class to explain: its name (needs --classes), its index, or topK, the K classes "
        f"of highest score, K up to {MOST_TARGETS} (default: %(default)s)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="look at the whole photograph in its own shape, with the fully convolutional form of "
        "the network, and not at a square of it",
    )
    parser.add_argument("--plain", action="store_true", help=evaluation_options.PLAIN)
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes, one class a line: index, synset, name, separated by tabs; "
        "without it a class is its index",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the picture to write (default: PHOTO's name with _{suffix}.png, in this folder)",
    )


def _add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument(
        "--debug",
        action="store_true",
        default=default,
        help="show the whole traceback of an error (also: EXCITATION_JAX_DEBUG=1)",
    )


def _add_model(parser: argparse.ArgumentParser, weights_help: str) -> None:
    parser.add_argument("--model", required=True, metavar="NAME", help=_NETWORK)
    parser.add_argument("--weights", metavar="FILE", help=f"{_WEIGHTS} ({weights_help})")


@contextlib.contextmanager
def _progress(stages: int) -> Iterator[Callable[[str], None]]:
    """Yields a function that names the next of `stages` stages in a progress bar.

    The bar is on stderr and gone when done; there is none where stderr is no terminal, and none for
    0 stages: such a command has its own.
    """
    if not stages or not sys.stderr.isatty():
        yield lambda name: None
        return
    try:
        from rich import progress
        from rich.console import Console
    except ModuleNotFoundError:  # it is in an extra, and no reason not to compute
        yield lambda name: print(f"{name} ...", file=sys.stderr)
        return
    done = itertools.count()
    with progress.Progress(
        progress.SpinnerColumn(),
        progress.BarColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=stages)
        yield lambda name: bar.update(task, description=name, completed=next(done), refresh=True)


def _message(error: ValueError | OSError | ImportError) -> str | None:
    """The one line that tells the user of an error; None for what is not the user's doing."""
    if isinstance(error, ImportError) and error.name:
        extra = _EXTRA_OF.get(error.name.partition(".")[0])
        return extra and f'this needs {error.name}: pip install "excitation-jax[{extra}]"'
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    text = " ".join(text.splitlines())
    return text if len(text) <= 400 else f"{text[:400]} ... (--debug shows all)"
