"""`echo4o data generate`: estimate, pilot, the whole plan, batches. Imports fast."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import estimator_of, price_arguments, refuse_idle

if TYPE_CHECKING:
    from .generate import Api, Settings, Summary

_FAILURES = 3
"""Reasons that are told."""


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data generate`."""
    parser.add_argument("folder", type=Path, help="folder of the plan")
    parser.add_argument("--model", required=True, help="image model of the API")
    parser.add_argument("--base-url", help="address of the API; default: $OPENAI_BASE_URL")
    parser.add_argument("--budget", type=float, metavar="USD", help="never spend more than this")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--output-format", choices=["png", "jpeg", "webp"], default="png")
    parser.add_argument("--dry-run", action="store_true", help="only estimate calls and price")
    price_arguments(parser)
    parser.add_argument(
        "--rewrite", metavar="MODEL", help="chat model that words refused prompts anew"
    )
    parser.add_argument("--rewrites", type=int, default=2, help="how often, with --rewrite")
    parser.add_argument(
        "--rebuy-lost",
        action="store_true",
        help="pay again for pictures whose files are missing or damaged (and for rows that used "
        "such a reference, unless it comes back the same)",
    )
    pilot = parser.add_argument_group("pilot")
    pilot.add_argument(
        "--pilot", type=int, metavar="N", help="buy N rows of all categories and report, no more"
    )
    pilot.add_argument("--check-model", help="vision model that judges the rows of --pilot")
    pilot.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="accept the rate for which the last run was paused",
    )
    batch = parser.add_argument_group("Batch API")
    batch.add_argument("--batch-api", action="store_true", help="cheaper, within a day")
    batch.add_argument(
        "--batch-lines",
        type=int,
        default=50_000,
        help="most rows in a batch; after a --pilot a batch waits for the one before, and the run "
        "pauses between them",
    )
    batch.add_argument(
        "--batch-poll", type=float, default=30.0, metavar="SECONDS", help="between looks"
    )
    batch.add_argument(
        "--cancel-batches", action="store_true", help="end batches, keep what they finished"
    )


def generate(args: argparse.Namespace) -> None:
    """Buy the pictures that the plan still lacks."""
    from .generate import Settings

    refuse_idle(args, "--pilot", "--check-model")
    settings = Settings(
        model=args.model,
        size=args.size,
        quality=args.quality,
        output_format=args.output_format,
        rewriter=args.rewrite,
        rewrites=args.rewrites,
    )
    if args.dry_run:
        _estimate(args)
    elif args.cancel_batches:
        from .generate import cancel_batches

        print(f"{cancel_batches(args.folder, settings, _api(args))} batches ended")
    elif args.pilot is not None:
        _pilot(args, settings)
    else:
        _whole(args, settings)


def _api(args: argparse.Namespace) -> "Api":
    from echo4o.client import BatchOptions, PriceTable

    from .generate import Api

    batch = BatchOptions(max_lines=args.batch_lines, poll_s=args.batch_poll)
    return Api(
        base_url=args.base_url,
        budget_usd=args.budget,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        prices=PriceTable.load(args.prices),
        batch=batch if args.batch_api or args.cancel_batches else None,
        rebuy_lost=args.rebuy_lost,
    )


def _estimate(args: argparse.Namespace) -> None:
    from .plan import iterate_plan

    estimator = estimator_of(args)
    assert estimator is not None
    for entry in iterate_plan(args.folder):
        estimator.add(entry)
    print(*estimator.total.lines(), sep="\n")
    print("for the whole plan, bought pictures included; nothing was called")


def _whole(args: argparse.Namespace, settings: "Settings") -> None:
    from echo4o.errors import Echo4oError

    from . import pauses
    from .generate import generate as buy

    watch = pauses.watch(args.folder, go_on=args.go_on)
    summary = buy(args.folder, settings, _api(args), watch=watch, progress=True)
    _print(summary, args.folder)
    if (words := pauses.note_pause(args.folder, watch)) is not None:
        raise Echo4oError(words)


def _pilot(args: argparse.Namespace, settings: "Settings") -> None:
    from .piloting import run_pilot

    summary, report = run_pilot(
        args.folder,
        settings,
        _api(args),
        rows=args.pilot,
        check_model=args.check_model,
        progress=True,
    )
    _print(summary, args.folder)
    print(*report.lines(), sep="\n")
    print("run the same command without --pilot to buy the rest; it pauses outside of these rates")


def _print(summary: "Summary", folder: Path) -> None:
    from .generate import Settings

    counted = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items())
    print(f"{counted}; {summary.calls} calls now, {summary.spent_usd:.4f} USD spent in all")
    if set(summary.references) - {"done"}:
        told = ", ".join(f"{count} {name}" for name, count in summary.references.items())
        print(f"references: {told}; rows without their reference wait for it")
    if summary.reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
        print(f"refused: {told}")
        if Settings.load(folder).rewriter is None:
            print("add --rewrite MODEL to have refused prompts worded anew and tried again")
    if summary.reworded:
        print(f"{summary.reworded} were made with other words after a refusal")
    for reason, count in list(summary.failures.items())[:_FAILURES]:
        print(f"failed: {count} times {reason[:200]}")
    if {"failed"} & {*summary.outcomes, *summary.references}:
        print("what failed is tried again when you run the same command; a build leaves it out")
