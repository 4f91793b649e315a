"""`echo4o eval job|watch`."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError

if TYPE_CHECKING:
    from .job import Job


def job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval job`."""
    parser.add_argument("model", help="ORG/NAME on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit; its commit is judged")
    _machine_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the call; start nothing")


def job(args: argparse.Namespace) -> None:
    """Start an evaluation on HF Jobs, or show the call that would."""
    from .job import check_asked, pinned, shown, start

    wanted = _job(args, pinned(args.model, args.revision))
    check_asked(wanted)
    print("huggingface_hub.run_uv_job(" + json.dumps(shown(wanted), indent=1) + ")")
    print(wanted.cost())
    if not args.dry_run:
        print(f"started {start(wanted)}")


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval watch`."""
    parser.add_argument("model", help="ORG/NAME on the Hub, which a webhook of yours watches")
    _machine_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one")
    parser.add_argument(
        "--seen", type=Path, default=Path("judged.txt"), help="file of the commits that had a job"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the calls; start nothing")


def watch(args: argparse.Namespace) -> None:
    """Wait for webhooks, and start a job for every new revision of the model."""
    from .job import check_asked, shown, start
    from .watch import SECRET, Watcher, make_server

    secret = os.environ.get(SECRET, "")
    if len(secret) < 8:
        raise Echo4oError(f"set {SECRET} to the secret of your webhook (8 characters or more)")
    check_asked(_job(args, "0" * 40))  # what is wrong with the options is told now

    def begin(commit: str) -> str:
        wanted = _job(args, commit)
        print(json.dumps(shown(wanted), indent=1), wanted.cost(), flush=True)
        return "dry run" if args.dry_run else start(wanted)

    watcher = Watcher(model=args.model, secret=secret, seen=args.seen, start=begin)
    with make_server(watcher, args.host, args.port) as server:
        print(f"waiting for webhooks at http://{args.host}:{server.server_port}", flush=True)
        server.serve_forever()


def _machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", default="geneval_plus_plus", help="benchmark")
    parser.add_argument("--items", required=True, help="hub:ORG/NAME[@REVISION] with the items")
    parser.add_argument("--judge", required=True, help="model of the judge")
    parser.add_argument(
        "--protocol", default="paper", help="how the judge is asked; all but kit are fetched there"
    )
    parser.add_argument("--results", default="", help="results dataset that gets the run")
    parser.add_argument("--wheel", default="echo4o", help='"echo4o @ ADDRESS" of a wheel')
    parser.add_argument("--flavor", default="a100-large", help="kind of machine")
    parser.add_argument("--hours", type=float, default=2.0, help="it is stopped after so long")


def _job(args: argparse.Namespace, revision: str) -> "Job":
    from .job import Job

    return Job(
        task=args.task,
        items=args.items,
        model=args.model,
        revision=revision,
        judge=args.judge,
        protocol=args.protocol,
        results=args.results,
        wheel=args.wheel,
        flavor=args.flavor,
        hours=args.hours,
    )
