"""`echo4o model info|convert|merge|push`: model folders as files; no heavy import before a verb."""

import argparse
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..errors import Echo4oError
from ..manifest import Release, release_argument, seal
from ..records import Input, RunRecord
from .opening import adapter_arguments, model_arguments, open_model, use_adapters

if TYPE_CHECKING:
    from .bagel.checkpoint import Located
    from .bagel.pipeline import Echo4oPipeline
    from .pictures import AdapterUse

logger = logging.getLogger(__name__)

DELAY_S, EVERY_S = 2.0, 0.5
"""What is written faster shows no bar; how often it is drawn."""


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `info`."""
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--json", action="store_true", help="print JSON")


def info(args: argparse.Namespace) -> None:
    """Print layout, sizes, types, and whether anything is missing; loads no weights."""
    from .inspection import inspect

    facts = inspect(args.model, revision=args.revision)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<18}{value}")


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `convert`."""
    model_arguments(parser)
    parser.add_argument("out", type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--layout",
        choices=("echo4o", "bagel"),
        default="echo4o",
        help="echo4o: our diffusers folder; bagel: the authors' files",
    )


def convert(args: argparse.Namespace) -> None:
    """Rewrite a model in the other layout, bit-exact unless --dtype is given."""
    _check_new(args.out)
    pipe = open_model(args)
    logger.info("writing %s", args.out)
    with _watched(args.out, pipe):
        pipe.save_pretrained(args.out, layout=args.layout)
    print(args.out)


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `push`."""
    parser.add_argument("folder", type=Path, help="model folder in either layout")
    parser.add_argument("repo", help="ORG/NAME on the Hub")
    parser.add_argument("--tag", help="immutable tag to set, for example v1")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")
    release_argument(parser)


def push(args: argparse.Namespace) -> None:
    """Check that a model folder is whole, then publish it in one step."""
    from .. import hub
    from .inspection import inspect

    if not args.folder.is_dir():
        raise Echo4oError(f"there is no folder {args.folder}; give the folder of a saved model")
    facts = inspect(args.folder)
    if args.release is not None and not args.dry_run:
        seal(args.folder, args.repo, "model", Release.load(args.release))
    done = hub.publish_folder(
        args.folder,
        args.repo,
        repo_type="model",
        message=f"Model in the {facts['layout']} layout",
        tag=args.tag,
        private=args.private,
        dry_run=args.dry_run,
    )
    if args.dry_run:
        print(f"would publish {len(done.files)} files, {done.uploaded_bytes} bytes to send:")
        print("\n".join(done.files))
        return
    tag = f" as {done.tag}" if done.tag else ""
    print(f"{done.repo_id} at {done.revision}{tag}, {done.uploaded_bytes} bytes sent")


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `merge`."""
    model_arguments(parser)
    parser.add_argument("out", type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--base", help="folder or Hub id of a full model that has the tensors MODEL lacks"
    )
    adapter_arguments(parser)
    parser.add_argument(
        "--layout", choices=("echo4o", "bagel"), help="to write (default: that of MODEL)"
    )


def merge(args: argparse.Namespace) -> None:
    """Make one whole model of a model, the tensors it lacks, and LoRA adapters."""
    from .bagel.checkpoint import locate

    _check_new(args.out)
    if args.base is None and not args.adapter:
        raise Echo4oError("there is nothing to merge; give --base, --adapter or both")
    located = locate(args.model, revision=args.revision)
    pipe = open_model(args) if args.base is None else _completed(args, located)
    used = use_adapters(pipe, args.adapter, any_base=args.any_base)
    logger.info("writing %s", args.out)
    with _watched(args.out, pipe):
        pipe.save_pretrained(args.out, layout=args.layout or located.layout)
    _merge_record(args, pipe, used).save(args.out)
    print(args.out)


def _completed(args: argparse.Namespace, located: "Located") -> "Echo4oPipeline":
    from .bagel.merging import complete
    from .bagel.pipeline import Echo4oPipeline

    pipe = Echo4oPipeline(*complete(located, args.base))
    pipe.source_id, pipe.source_revision = str(args.model), located.revision
    return pipe


def _merge_record(
    args: argparse.Namespace, pipe: "Echo4oPipeline", used: "Sequence[AdapterUse]"
) -> RunRecord:
    inputs = [Input(kind="model", id=_name(args.model), revision=pipe.source_revision)]
    if args.base is not None:
        inputs.append(Input(kind="model", id=_name(args.base)))
    inputs += [
        Input(kind="adapter", id=_name(one.source), revision=one.revision, sha256=one.sha256)
        for one in used
    ]
    return RunRecord(
        name=args.out.resolve().name,
        command="echo4o model merge",
        inputs=tuple(inputs),
        parameters={"weights": [one.weight for one in used]},
    )


def _name(source: str) -> str:
    """A Hub id, or the bare name of a folder."""
    return Path(source).resolve().name if Path(source).is_dir() else source


@contextmanager
def _watched(folder: Path, pipe: "Echo4oPipeline") -> Iterator[None]:
    """A bar of the bytes in a folder while the model is written; reading has one of its own."""
    total = sum(t.nbytes for part in (pipe.model, pipe.vae) for t in part.state_dict().values())
    done = threading.Event()
    bar = tqdm(desc="writing", total=total, unit="B", unit_scale=True, delay=DELAY_S, leave=False)

    def watch() -> None:
        last = False
        while not last:
            last = done.wait(EVERY_S)
            with suppress(OSError):  # a temporary file that is just renamed
                sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
                bar.update(min(sum(sizes), total) - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        bar.close()


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Echo4oError(f"{folder} exists and is not empty; give a new folder")
