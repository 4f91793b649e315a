"""`echo4o eval push items|metrics|results` and `echo4o eval submit`."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError
from echo4o.manifest import Release, release_argument, seal

if TYPE_CHECKING:
    from echo4o.hub import Published
    from echo4o.hub_reading import RepoType


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval push`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="items|metrics|results")
    items = kinds.add_parser("items", help="a task's items as a dataset")
    items.add_argument("task", help="which benchmark; not omnicontext, whose items have pictures")
    items.add_argument("repo", help="ORG/NAME of the dataset")
    items.add_argument(
        "--items", default="kit", help="kit, authors, or a JSONL file; authors need --license"
    )
    items.add_argument("--license", help="licence of the items, as the Hub names it (apache-2.0)")
    items.add_argument("--faulty", type=Path, help="known faulty items: {id, reason} a line")
    items.add_argument("--tag", default="v1", help="name of this version; never moved")
    metrics = kinds.add_parser("metrics", help="the evaluate modules as Spaces, with their wheel")
    metrics.add_argument("organisation", metavar="ORG", help="owner of the Spaces")
    metrics.add_argument("--wheel", type=Path, help="wheel of echo4o; built here if absent")
    results = kinds.add_parser("results", help="runs as rows of a results dataset")
    results.add_argument("repo", help="ORG/NAME of the dataset; runs are added to it")
    results.add_argument("runs", nargs="+", type=Path, help="run folders")
    results.add_argument("--pictures", action="store_true", help="store the pictures as well")
    results.add_argument("--license", help="licence of the authors' items, to store their texts")
    for kind in (metrics, results):
        kind.add_argument("--tag", help="immutable name of this version, for example v1")
    for kind in (items, metrics, results):
        kind.add_argument("--dry-run", action="store_true", help="only say what would be written")
        release_argument(kind)


def push(args: argparse.Namespace) -> None:
    """Publish items, metrics or results."""
    {"items": _items, "metrics": _metrics, "results": _results}[args.kind](args)


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval submit`."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("model", help="ORG/NAME of the model's repo")
    parser.add_argument(
        "--dataset",
        metavar="ORG/NAME[@REVISION]",
        help="dataset repo with the items; the run's own if it took them from the Hub",
    )
    parser.add_argument("--source-url", help="where the run can be looked up")
    parser.add_argument("--merge", action="store_true", help="merge it too, in a repo of your own")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help="write the file into the folder of the model instead, which is about to be pushed",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written")


def submit(args: argparse.Namespace) -> None:
    """Bring a run's scores into the model's repo by pull request."""
    from .submit import submit as open_pull_request

    text, published = open_pull_request(
        args.run,
        args.model,
        dataset=args.dataset,
        source_url=args.source_url,
        merge=args.merge,
        dry_run=args.dry_run,
        into=args.into,
    )
    print(text, end="")
    if published is not None:
        _say("model", published, offered=not args.merge)


def again_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval again`."""
    parser.add_argument("spaces", nargs="+", metavar="ORG/NAME[@REVISION]", help="metric Spaces")
    parser.add_argument("--results", type=Path, help="downloaded results dataset with pictures")
    parser.add_argument("--most", type=int, default=20, help="pictures of each run")
    parser.add_argument("--out", type=Path, default=Path("again"), help="pictures and ledgers")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def again(args: argparse.Namespace) -> None:
    """Load metrics from the Hub, and judge stored pictures with them."""
    from .again import judge_again, tell

    found = [judge_again(one, args.results, args.most, args.out) for one in args.spaces]
    print(tell(found, args.json))


def _items(args: argparse.Namespace) -> None:
    from echo4o.hub import publish_folder

    from .faulty import known_faults, read_faults
    from .item_repo import ITEMS, PREFIX, is_authors, stage_items
    from .tasks import AUTHORS, get_task
    from .wording import authors_items

    release = _release(args)
    if args.items.startswith(PREFIX):
        raise Echo4oError(f"{args.items} is on the Hub already; push a file, kit or authors")
    task = get_task(args.task)
    source = task.items(args.items)
    theirs = is_authors(task, source.sha256, [item.prompt for item in source.items])
    if theirs and args.license is None:
        raise Echo4oError(
            f"these are the items of the authors of {task.title}; publishing them needs their "
            "licence, so look it up and name it with --license"
        )
    _refuse_foreign(args.repo, "dataset", ITEMS)
    path = authors_items(task.name) if args.items == AUTHORS else Path(args.items)
    data = (task.kit_items if source.source == args.items == "kit" else path).read_bytes()
    faults = known_faults(task.name, source.items) if theirs else []
    if args.faulty is not None:
        faults += read_faults(args.faulty, source.items)
    license = args.license if theirs or args.items != "kit" else args.license or "apache-2.0"
    with tempfile.TemporaryDirectory(prefix="echo4o-items-") as name:
        folder = stage_items(
            task,
            data,
            source,
            Path(name) / "items",
            repo=args.repo,
            license=license,
            faults=faults,
        )
        if release is not None:
            seal(folder, args.repo, "dataset", release)
        published = publish_folder(
            folder,
            args.repo,
            repo_type="dataset",
            message=f"{task.title}: {len(source.items)} items",
            tag=args.tag,
            dry_run=args.dry_run,
        )
    print(f"{len(source.items)} items, {len(faults)} with known faults")
    _say("dataset", published)


def _metrics(args: argparse.Namespace) -> None:
    from .push_metrics import push_metrics
    from .tasks import task_names

    for task in task_names():
        _refuse_foreign(f"{args.organisation}/{task}", "space", f"{task}.py")
    pushed = push_metrics(
        args.organisation,
        wheel=args.wheel,
        tag=args.tag,
        release=_release(args),
        dry_run=args.dry_run,
    )
    _say("dataset", pushed.wheel)
    for space in pushed.spaces:
        _say("space", space)


def _results(args: argparse.Namespace) -> None:
    from .results_repo import push_results

    _refuse_foreign(args.repo, "dataset", "data/runs/")
    published = push_results(
        args.runs,
        args.repo,
        pictures=args.pictures,
        license=args.license,
        tag=args.tag,
        release=_release(args),
        dry_run=args.dry_run,
    )
    _say("dataset", published)


def _release(args: argparse.Namespace) -> Release | None:
    return None if args.release is None or args.dry_run else Release.load(args.release)


def _refuse_foreign(repo: str, kind: "RepoType", marker: str) -> None:
    """What is pushed takes the place of what is there, so that must be of the same kind."""
    from echo4o.hub_reading import list_files

    files = list_files(repo, kind) or set()
    strange = sorted(files - {".gitattributes", "README.md"})
    if strange and not any(name.startswith(marker) for name in strange):
        raise Echo4oError(
            f"the {kind} {repo} holds something else ({strange[0]}, no {marker}), which this push "
            "would take away; choose another name"
        )


def _say(kind: str, published: "Published", *, offered: bool = False) -> None:
    if published.revision is None:
        print(f"{kind}  {published.repo_id}: {published.uploaded_bytes} bytes would be sent")
        return
    request = published.pull_request
    how = "nothing had to change" if request is None else f"pull request {request}"
    how += " waits for its owners" if offered and request is not None else ""
    tag = f", tag {published.tag}" if published.tag else ""
    print(f"{kind}  {published.repo_id} at {published.revision}{tag} ({how})")
