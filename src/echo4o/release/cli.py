"""Command-line verbs of `echo4o release`."""

import argparse
from pathlib import Path

from ..errors import Echo4oError


def rehearse_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o release rehearse`."""
    parser.add_argument("--out", type=Path, default=Path("rehearsal"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="everything once, in 2 minutes")
    parser.add_argument(
        "--data", type=Path, help="take this release in the authors' layout as the dataset"
    )
    parser.add_argument("--rows", type=int, help="rows to plan (default: by size of the run)")
    parser.add_argument("--steps", type=int, help="training steps (default: by size of the run)")
    parser.add_argument("--seed", type=int, default=0, help="seed of plan, training and pictures")
    parser.add_argument(
        "--faults", default="", help="faults of the sandbox, e.g. 429=0.05,cut=0.01"
    )


def rehearse(args: argparse.Namespace) -> None:
    """Run `echo4o release rehearse`."""
    from .rehearse import Rehearsal, Scale

    if args.data is not None and args.rows is not None:
        raise Echo4oError("--rows plans rows, --data brings its own; give one of them")
    scale = Scale.quick() if args.quick else Scale()
    Rehearsal(
        out=args.out,
        scale=scale.changed(rows=args.rows, steps=args.steps),
        data=args.data,
        seed=args.seed,
        faults=args.faults,
        say=print,
    ).run()
