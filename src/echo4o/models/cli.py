"""`echo4o model generate|ask|info|convert|push`; nothing heavy is imported until a verb runs."""

import argparse
import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import Echo4oError
from ..pictures import MAX_BYTES, PictureError, picture_facts

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .bagel.pipeline import Echo4oPipeline

_DTYPES = ("float32", "bfloat16", "float16")


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate`."""
    _model_arguments(parser)
    parser.add_argument("prompt", help='what to paint; "" is an unconditional picture')
    parser.add_argument("--image", nargs="+", type=Path, default=[], help="1 to 4 references")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the PNGs")
    parser.add_argument("--num", type=int, default=1, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next add 1")
    parser.add_argument("--height", type=int, help="pixels (default: reference, else 1024)")
    parser.add_argument("--width", type=int, help="pixels; give both or none")
    parser.add_argument("--steps", type=int, default=49, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=4.0, help="weight of the text")
    parser.add_argument("--image-guidance", type=float, help="weight of the references")
    parser.add_argument("--shift", type=float, default=3.0, help="time shift")
    parser.add_argument("--think", action="store_true", help="let the model plan first")


def generate(args: argparse.Namespace) -> None:
    """Make pictures and save them with everything needed to make them again."""
    import torch

    from .bagel.pipeline import Echo4oPipelineOutput
    from .pictures import PictureRecord, save_picture

    if args.num < 1:
        raise Echo4oError(f"--num must be at least 1, got {args.num}")
    pictures = [_open_picture(path) for path in args.image]
    pipe = _load(args)
    call: dict[str, Any] = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "image_guidance_scale": args.image_guidance,
        "timestep_shift": args.shift,
        "height": args.height,
        "width": args.width,
        "think": args.think,
    }
    seeds = [args.seed + index for index in range(args.num)]
    result = pipe(
        args.prompt,
        pictures or None,
        num_images_per_prompt=args.num,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **call,
    )
    assert isinstance(result, Echo4oPipelineOutput)
    if result.thoughts:
        print(f"plan: {result.thoughts[0]}", file=sys.stderr)
    for seed, image in zip(seeds, cast("list[Image.Image]", result.images), strict=True):
        path = args.out / f"{_slug(args.prompt)}-{seed}.png"
        parameters = call | {"height": image.height, "width": image.width}
        parameters["references"] = [str(path.name) for path in args.image]
        record = PictureRecord(
            prompt=args.prompt,
            model=str(args.model),
            revision=pipe.source_revision,
            seed=seed,
            parameters=parameters,
        )
        save_picture(path, image, record)
        print(path)


def ask_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ask`."""
    _model_arguments(parser)
    parser.add_argument("picture", nargs="*", type=Path, help="0 to 4 picture files")
    parser.add_argument("question", help="what to ask about them")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="limit of the answer")
    parser.add_argument("--think", action="store_true", help="let the model reason first")


def ask(args: argparse.Namespace) -> None:
    """Print the model's answer."""
    pictures = [_open_picture(path) for path in args.picture]
    pipe = _load(args)
    answer = pipe.understand(
        pictures, args.question, max_new_tokens=args.max_new_tokens, think=args.think
    )
    print(answer)


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `info`."""
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--json", action="store_true", help="print JSON")


def info(args: argparse.Namespace) -> None:
    """Print layout, sizes, types, and whether anything is missing; loads no weights."""
    from .bagel.inspection import inspect

    facts = inspect(args.model, revision=args.revision)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<18}{value}")


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `convert`."""
    _model_arguments(parser)
    parser.add_argument("out", type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument(
        "--layout",
        choices=("echo4o", "bagel"),
        default="echo4o",
        help="echo4o: our diffusers folder; bagel: the authors' files",
    )


def convert(args: argparse.Namespace) -> None:
    """Rewrite a model in the other layout, bit-exact unless --dtype is given."""
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise Echo4oError(f"{args.out} exists and is not empty; give a new folder")
    pipe = _load(args)
    pipe.save_pretrained(args.out, layout=args.layout)
    print(args.out)


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `push`."""
    parser.add_argument("folder", type=Path, help="model folder in either layout")
    parser.add_argument("repo", help="ORG/NAME on the Hub")
    parser.add_argument("--tag", help="immutable tag to set, for example v1")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")


def push(args: argparse.Namespace) -> None:
    """Check that a model folder is whole, then publish it in one step."""
    from .. import hub
    from .bagel.inspection import inspect

    if not args.folder.is_dir():
        raise Echo4oError(f"there is no folder {args.folder}; give the folder of a saved model")
    facts = inspect(args.folder)
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


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or Hub id, in either layout")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the main model (default: as stored)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: cuda if any")


def _load(args: argparse.Namespace) -> "Echo4oPipeline":
    import torch
    from transformers.utils import logging

    from .bagel.pipeline import Echo4oPipeline

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Echo4oPipeline.from_pretrained(
        args.model, revision=args.revision, dtype=_dtype(args.dtype), device_map=device
    )


def _dtype(name: str | None) -> "torch.dtype | None":
    import torch

    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return named[name] if name else None


def _open_picture(path: Path) -> "Image.Image":
    from PIL import Image

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Echo4oError(f"{path} has {size} bytes; at most {MAX_BYTES} are accepted")
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Echo4oError(f"there is no picture file {path}") from error
    try:
        picture_facts(data)
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
        image.load()
    except (PictureError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise Echo4oError(f"{path} cannot be read as a picture: {error}") from error
    return image


def _slug(prompt: str, limit: int = 40) -> str:
    """A file name that hints at the prompt."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:limit].strip("-") or "picture"
