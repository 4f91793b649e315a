"""`echo4o card render|check`: cards from records, and what is wrong with a card."""

import argparse
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import write_atomic

KINDS = ("dataset", "model", "metric", "space")


def render_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o card render`."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path, help="what the card is about: it holds the record")
    parser.add_argument("--repo", help="ORG/NAME it will have on the Hub")
    parser.add_argument(
        "--eval",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="an evaluation output with scores for a model card; may be given several times",
    )
    parser.add_argument("--out", type=Path, help="file to write (FOLDER/README.md); - prints it")


def render(args: argparse.Namespace) -> None:
    """Write the card of a folder."""
    from . import gather
    from . import render as cards
    from .metric_parts import metric_facts

    if not args.folder.is_dir():
        raise Echo4oError(f"there is no folder {args.folder}; give the one that holds the record")
    if args.eval and args.kind != "model":
        raise Echo4oError(f"--eval belongs to a model card, not to a {args.kind} card")
    if args.kind == "dataset":
        text = cards.render_dataset_card(gather.dataset_facts(args.folder, repo_id=args.repo))
    elif args.kind == "model":
        facts = gather.model_facts(args.folder, repo_id=args.repo, runs=args.eval)
        text = cards.render_model_card(facts)
    elif args.kind == "metric":
        text = cards.render_metric_card(metric_facts(args.folder, repo_id=args.repo))
    else:
        text = cards.render_space_card(gather.space_facts(args.folder))
    if str(args.out) == "-":
        print(text, end="")
        return
    target = args.out or args.folder / "README.md"
    write_atomic(target, text)
    print(f"wrote {target}")


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o card check`."""
    parser.add_argument("files", type=Path, nargs="+", help="cards, or folders with a README.md")
    parser.add_argument("--kind", choices=KINDS, help="front matter to ask for; else none")
    parser.add_argument("--claims", type=Path, help="claims.yaml that figures must stand in")


def check(args: argparse.Namespace) -> None:
    """Print what is wrong with each card; any finding ends in status 1."""
    from .check import check_card, load_claims

    claims = load_claims(args.claims) if args.claims else None
    findings = 0
    for given in args.files:
        file = given / "README.md" if given.is_dir() else given
        if not file.is_file():
            raise Echo4oError(f"there is no card at {file}; run `echo4o card render` first")
        problems = check_card(
            file.read_text(),
            folder=file.parent,
            repo_type="space" if args.kind == "metric" else args.kind,
            claims=claims,
        )
        findings += len(problems)
        print("\n".join(f"{file}: {problem}" for problem in problems) or f"{file}: fine")
    if findings:
        raise Echo4oError(f"{findings} finding(s); mend the record and render the card again")
