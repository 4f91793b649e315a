"""`echo4o train run|plan`: the command line of training (imports nothing heavy)."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.launch import is_first_rank, launch

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
    _process_arguments(parser)
    parser.add_argument(
        "--force", action="store_true", help="go on from a checkpoint of other settings or rows"
    )
    parser.add_argument("--layout", choices=("echo4o", "bagel"), help="of the model's files")
    parser.add_argument("--push", metavar="ORG/NAME", help="also publish the result on the Hub")
    parser.add_argument(
        "--push-every", type=int, metavar="N", help="and the weights so far, every N steps"
    )


def run(args: argparse.Namespace) -> None:
    """Train a recipe; run again, it goes on from its newest checkpoint.

    `record.json` is written last: a run that was told to stop leaves none, though it exits with 0.
    """
    for key in ("layout", "push", "push_every"):
        if getattr(args, key) is not None:
            args.settings.append(f"{key}={getattr(args, key)}")
    if args.force:
        args.settings.append("resume_force=true")
    config, out = _configuration(args), _out(args)
    if args.processes < 1 or config.packs_per_step % args.processes:
        raise Echo4oError(
            f"--processes must divide packs_per_step, {config.packs_per_step}; got {args.processes}"
        )
    _launch_if_many("run", args, out)

    from .train import train

    with _others_may_end():
        result = train(config, out)
    if not is_first_rank():
        return
    if result.finished:
        made = "  ".join(f"{name}: {out / name}" for name in config.artefacts)
        print(f"{made}  record: {out / 'record.json'}  loss: {out / 'loss.jsonl'}")
    else:
        print(f"stopped after step {result.step}; run the same command again to go on")


def cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train cache`."""
    parser.description = (
        "Encode all pictures of a recipe's dataset once, for every later run with the same "
        "autoencoder and sizes. Run again, it goes on where it was."
    )
    _recipe_arguments(parser)
    _process_arguments(parser)


def cache(args: argparse.Namespace) -> None:
    """Encode a recipe's pictures to disk; `train run` takes them from there."""
    out = _out(args)
    config = _configuration(args)
    if args.processes < 1:
        raise Echo4oError(f"--processes must be at least 1, got {args.processes}")
    _launch_if_many("cache", args, out)

    from .caching import fill_store

    with _others_may_end():
        filled = fill_store(config, out)
    if is_first_rank():
        print(f"{filled.rows:,} rows, {filled.skipped:,} skipped: {filled.folder}")


def _launch_if_many(verb: str, args: argparse.Namespace, out: Path) -> None:
    """Leave this process to watch over several others, if that is asked."""
    if args.processes > 1:
        sys.exit(launch(args.processes, "echo4o.training", [verb, *_words(args, out)]))


@contextlib.contextmanager
def _others_may_end() -> Iterator[None]:
    """One sentence instead of what gloo says when another process is gone.

    Raises:
        Echo4oError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        # Closed or reset, while reading or writing: it has many words, and its file in all of them.
        if "gloo/transport" in str(error) or "closed by peer" in str(error):
            raise Echo4oError("another process of this run ended; its message says why") from error
        raise


def _words(args: argparse.Namespace, out: Path) -> list[str]:
    """The same command for one of several processes."""
    options = {"--data": args.data, "--revision": args.revision, "--out": out}
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [args.recipe, *words, *(f"--set={setting}" for setting in args.settings)]


def _out(args: argparse.Namespace) -> Path:
    return args.out or Path(f"train-{args.recipe}")


def _process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=None, help="result folder (train-RECIPE)")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="on this machine, a share of its cores each; must divide packs_per_step",
    )


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `train plan`."""
    _recipe_arguments(parser)
    parser.add_argument(
        "--rate", type=float, metavar="TOKENS", help="a second and device, for the time (1000)"
    )


def plan(args: argparse.Namespace) -> None:
    """Print what a recipe will need; loads no weights and no data."""
    from .plan import RATE, plan_lines

    rate = RATE if args.rate is None else args.rate
    if not rate > 0:
        raise Echo4oError(f"--rate must be above 0, got {args.rate}")
    for line in plan_lines(_configuration(args), rate):
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
