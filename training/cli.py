"""`echo4o train run|plan`: the command line of training (imports nothing heavy)."""

import argparse
import dataclasses
from pathlib import Path

from .config import TrainConfig
from .overrides import override
from .recipes import RECIPES, recipe


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train run`."""
    parser.description = (
        "Train a recipe. SIGTERM saves a checkpoint and exits with 0; the run is finished when, "
        "and only when, OUT/record.json exists. Until then the same command goes on."
    )
    _recipe_arguments(parser)
    parser.add_argument("--out", type=Path, default=None, help="result folder (train-RECIPE)")


def run(args: argparse.Namespace) -> None:
    """Train a recipe; run again, it goes on from its newest checkpoint.

    `record.json` is written last: a run that was told to stop leaves none, though it exits with 0.
    """
    from .train import train

    out = args.out or Path(f"train-{args.recipe}")
    result = train(_configuration(args), out)
    if result.finished:
        print(f"model: {out / 'model'}  record: {out / 'record.json'}  loss: {out / 'loss.jsonl'}")
    else:
        print(f"stopped after step {result.step}; run the same command again to go on")


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train plan`."""
    _recipe_arguments(parser)


def plan(args: argparse.Namespace) -> None:
    """Print what a recipe will need; loads no weights and no data."""
    from .plan import plan_lines

    for line in plan_lines(_configuration(args)):
        print(line)


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"one of: {', '.join(RECIPES)}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change one setting, for example steps=100 or tiny.layers=6; may be repeated",
    )
    parser.add_argument("--data", default=None, metavar="FOLDER|ID", help="dataset folder or id")
    parser.add_argument("--revision", default=None, help="commit, branch or tag of a Hub dataset")


def _configuration(args: argparse.Namespace) -> TrainConfig:
    config = override(recipe(args.recipe), args.settings)
    named = {"data": args.data, "revision": args.revision}
    return dataclasses.replace(config, **{k: v for k, v in named.items() if v is not None})
