"""`echo4o eval import|detector-agreement`: what others said about the same pictures."""

import argparse
from pathlib import Path


def import__arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval import`."""
    parser.add_argument("task", choices=("dpg_bench",), help="which benchmark")
    parser.add_argument(
        "--answers",
        type=Path,
        required=True,
        help='JSONL, one picture a line: {"item_id", "picture": 1 to 4, "answers": {"1": "yes"}}',
    )
    parser.add_argument("--judge", required=True, help="what answered, such as mplug-vqa-large")
    parser.add_argument(
        "--items", default="authors", help="kit, authors, hub:ORG/NAME, a JSONL or the CSV file"
    )
    parser.add_argument(
        "--protocol", choices=("paper", "released"), default="released", help="what counts as yes"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--explain", action="store_true", help="say which pictures the readings tell apart"
    )


def import_(args: argparse.Namespace) -> None:
    """Score answers that were given elsewhere."""
    from .dpg_import import import_answers
    from .judge_cli import tell_run
    from .tasks import get_task

    task = get_task(args.task)
    run = import_answers(
        task,
        task.items(args.items),
        args.answers,
        judge=args.judge,
        protocol=args.protocol,
        out=args.out,
    )
    tell_run(run, args.out, explained=args.explain)


def detector_agreement_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval detector-agreement`."""
    parser.add_argument("run", type=Path, help="folder of a run of geneval")
    parser.add_argument(
        "other",
        type=Path,
        help="verdicts on the same pictures: GenEval's own results.jsonl, lines {number, sample, "
        "correct}, or another run's folder",
    )
    parser.add_argument("--out", type=Path, help="JSON file for the figures")


def detector_agreement(args: argparse.Namespace) -> None:
    """Say how far two detectors agree, picture by picture."""
    import json

    from echo4o.records import write_atomic

    from .detector_agreement import agreement_lines, compare_verdicts, read_verdicts
    from .runs import load_run

    found = compare_verdicts(load_run(args.run), read_verdicts(args.other))
    print("\n".join(agreement_lines(found)))
    if args.out is not None:
        write_atomic(args.out, json.dumps(found.to_json(), indent=1) + "\n")
        print(f"agreement  {args.out}")
