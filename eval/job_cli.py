"""`echo4o eval job`."""

import argparse
import json


def job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval job`."""
    parser.add_argument("model", help="ORG/NAME on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit; its commit is judged")
    parser.add_argument("--task", default="geneval_plus_plus", help="benchmark")
    parser.add_argument("--items", required=True, help="hub:ORG/NAME[@REVISION] with the items")
    parser.add_argument("--judge", required=True, help="model of the judge")
    parser.add_argument("--results", default="", help="results dataset that gets the run")
    parser.add_argument("--wheel", default="echo4o", help='"echo4o @ ADDRESS" of a wheel')
    parser.add_argument("--flavor", default="a100-large", help="kind of machine")
    parser.add_argument("--hours", type=float, default=2.0, help="it is stopped after so long")
    parser.add_argument("--dry-run", action="store_true", help="print the call; start nothing")


def job(args: argparse.Namespace) -> None:
    """Start an evaluation on HF Jobs, or show the call that would."""
    from .job import Job, pinned, shown, start

    wanted = Job(
        task=args.task,
        items=args.items,
        model=args.model,
        revision=pinned(args.model, args.revision),
        judge=args.judge,
        results=args.results,
        wheel=args.wheel,
        flavor=args.flavor,
        hours=args.hours,
    )
    print("huggingface_hub.run_uv_job(" + json.dumps(shown(wanted), indent=1) + ")")
    print(wanted.cost())
    if not args.dry_run:
        print(f"started {start(wanted)}")
