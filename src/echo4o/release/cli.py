"""Command-line verbs of `echo4o release`."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Echo4oError

if TYPE_CHECKING:
    from .verify import Verification


def rehearse_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o release rehearse`."""
    parser.add_argument("--out", type=Path, default=Path("rehearsal"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="everything once, in a few minutes")
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


def publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o release publish`."""
    parser.add_argument("plan", type=Path, metavar="RELEASE.toml", help="what belongs to it")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="what is done (default: beside it, release-VERSION)",
    )
    parser.add_argument(
        "--sign-key",
        type=Path,
        metavar="FILE",
        help="private key (PEM, P-256) that signs every repo",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written")


def publish(args: argparse.Namespace) -> None:
    """Run `echo4o release publish`."""
    from .plan import Plan
    from .publish import Publication

    if args.sign_key is not None and not args.sign_key.is_file():
        raise Echo4oError(f"--sign-key: there is no file {args.sign_key}")
    plan = Plan.load(args.plan)
    work = args.work or plan.path(f"release-{plan.release.version}")
    Publication(plan=plan, work=work, key=args.sign_key, dry_run=args.dry_run, say=_say).run()


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o release verify`."""
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="datasets|spaces/ORG/NAME@COMMIT, ORG/NAME@COMMIT (a model), the published.json of "
        "`release publish`, or a repo's release.json; repos that these were built upon are found",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="public key (PEM) of who signed it"
    )
    parser.add_argument(
        "--full", action="store_true", help="more rows and pictures; asks the judge"
    )
    parser.add_argument(
        "--here", action="store_true", help="in this environment instead of a fresh one"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep what was downloaded here")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="wheel of echo4o for the fresh environment"
    )


def verify(args: argparse.Namespace) -> None:
    """Run `echo4o release verify`; any difference ends in status 1."""
    from .verify import Verification, read_targets

    if args.key is not None and not args.key.is_file():
        raise Echo4oError(f"--key: there is no file {args.key}")
    targets, collection = read_targets(args.targets)
    with contextlib.ExitStack() as stack:
        if args.out is None:
            made = tempfile.TemporaryDirectory(prefix="echo4o-verify-")
            args.out = Path(stack.enter_context(made))
        verification = Verification(
            targets=targets,
            out=args.out.resolve() / "repos",
            key=args.key,
            full=args.full,
            collection=collection,
            say=_say,
        )
        if args.here:
            _report(verification)
            return
        from .fresh import make_environment, run_inside

        folder = args.out.resolve() / "environment"
        python = make_environment(folder, verification.packages(), args.wheel, _say)
        status = run_inside(python, ["release", "verify", *args.words, "--here"])
        if status:
            sys.exit(status)


def _report(verification: "Verification") -> None:
    table = verification.run()
    print("\n".join(["", *table.lines(), ""]))
    bad = len(table.bad_rows)
    if bad:
        raise Echo4oError(f"{bad} of {len(table.rows)} checks found a difference; see BAD above")
    print(f"{len(table.rows)} checks, no difference")
    if verification.loose:
        print(
            f"nobody would see it if all of {', '.join(verification.loose)} had been rewritten: "
            "give commits (ORG/NAME@COMMIT) or --key"
        )


def _say(line: str) -> None:
    print(line, flush=True)


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o release compare`."""
    parser.add_argument("--before", required=True, help="model: folder or Hub id[@revision]")
    parser.add_argument("--after", required=True, help="the same, after its training")
    parser.add_argument(
        "--tasks", nargs="+", default=["geneval_plus_plus"], help="benchmarks to run both on"
    )
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder; resumes")
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="-- OPTIONS",
        help="what else `echo4o eval run` takes, for every run: at least -- --judge JUDGE",
    )


def compare(args: argparse.Namespace) -> None:
    """Run `echo4o release compare`."""
    from .compare import compare as compare_models

    words = args.options[1:] if args.options[:1] == ["--"] else args.options
    if not any(word.partition("=")[0] in ("--judge", "--judges") for word in words):
        raise Echo4oError("nobody is named who judges; write it at the end: -- --judge JUDGE")
    found = compare_models(args.before, args.after, args.tasks, args.out, words, _say)
    print(f"comparison  {found}")
