"""`echo4o model generate|ask`; nothing heavy is imported until a verb runs."""

import argparse
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from ..errors import Echo4oError
from .kinds import KINDS, pipeline_class, pipeline_type
from .opening import (
    AdapterChoice,
    adapter_arguments,
    model_arguments,
    open_kind,
    open_model,
    open_picture,
    use_adapters,
)

if TYPE_CHECKING:
    from PIL import Image

    from .pictures import PictureRecord


_SETTINGS = (
    "num",
    "seed",
    "size",
    "height",
    "width",
    "steps",
    "guidance",
    "image_guidance",
    "shift",
    "think",
    "adapter",
    "any_base",
)
"""Options that a repeated picture brings along."""


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate`."""
    model = model_arguments(parser)
    prompt = parser.add_argument("prompt", help='what to paint; "" is an unconditional picture')

    class Again(argparse.Action):
        """A picture brings its own model, prompt and settings."""

        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *args: Any
        ) -> None:
            namespace.again = args[0]
            namespace.untouched = {name: parser.get_default(name) for name in _SETTINGS}
            for action in (model, prompt):
                action.nargs, action.required = "?", False

    parser.add_argument("--image", nargs="+", type=Path, default=[], help="1 to 4 references")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the PNGs")
    parser.add_argument("--num", type=int, default=1, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next add 1")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WxH",
        help="pixels (default: reference, else 1024x1024; BLIP3-o has one size)",
    )
    parser.add_argument("--height", type=int, help="pixels, with --width instead of --size")
    parser.add_argument("--width", type=int, help="pixels, with --height instead of --size")
    parser.add_argument(
        "--steps", type=int, help="denoising steps (default: 49, OmniGen2 50, BLIP3-o 30)"
    )
    parser.add_argument("--guidance", type=float, help="weight of the text (default: 4, BLIP3-o 3)")
    parser.add_argument("--image-guidance", type=float, help="weight of the references")
    parser.add_argument("--shift", type=float, help="time shift (default: 3; BAGEL only)")
    parser.add_argument("--think", action="store_true", help="let the model plan first")
    adapter_arguments(parser)
    parser.add_argument(
        "--again",
        action=Again,
        type=Path,
        metavar="FILE",
        help="repeat a picture from its metadata; model, prompt and settings come from there",
    )


def generate(args: argparse.Namespace) -> None:
    """Make pictures and save them with everything needed to make them again."""
    if args.again is not None:
        _repeat(args)
        return
    if args.num < 1:
        raise Echo4oError(f"--num must be at least 1, got {args.num}")
    if not 0 <= args.seed < (1 << 63) - args.num:
        raise Echo4oError(f"--seed must be from 0 to 2**63, got {args.seed}")
    kind = _kind(args)
    request = _request(args, kind)
    pictures = [open_picture(path) for path in args.image]
    pipe = open_kind(args, kind)
    adapters = use_adapters(pipe, args.adapter, any_base=args.any_base)
    request = replace(request, revision=pipe.source_revision, adapters=adapters)
    # One by one, so that a picture can be repeated alone to the last bit, and none is lost.
    for seed in range(args.seed, args.seed + args.num):
        path = args.out / f"{_slug(args.prompt)}-{seed}.png"
        _paint(pipe, replace(request, seed=seed), pictures, path)
        print(path, flush=True)


def _kind(args: argparse.Namespace) -> str:
    """The class of the model's pipeline.

    Raises:
        Echo4oError: it is none of ours.
    """
    kind = pipeline_class(str(args.model), args.revision)
    if kind not in KINDS:
        raise Echo4oError(
            f"{args.model} names {kind} as its pipeline; `model generate` knows {', '.join(KINDS)}"
        )
    return kind


def _request(args: argparse.Namespace, kind: str) -> "PictureRecord":
    """What is asked for, without what only the loaded model can tell."""
    from ..records import sha256_file
    from .pictures import PictureRecord, Reference

    if args.size is not None and (args.height, args.width) != (None, None):
        raise Echo4oError("give either --size or --height and --width, not both")
    for path in args.image:
        if not path.is_file():
            raise Echo4oError(f"there is no picture file {path}")
    return PictureRecord(
        prompt=args.prompt,
        model=str(args.model),
        parameters=_parameters(args, kind),
        references=tuple(
            Reference(name=path.name, sha256=sha256_file(path)) for path in args.image
        ),
    )


def _parameters(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Settings of the pipeline's call: those given, else its own defaults.

    Raises:
        Echo4oError: the pipeline has no such setting.
    """
    known = inspect.signature(pipeline_type(kind).__call__).parameters
    width, height = args.size or (args.width, args.height)
    given = {
        "num_inference_steps": (args.steps, "--steps"),
        "guidance_scale": (args.guidance, "--guidance"),
        "image_guidance_scale": (args.image_guidance, "--image-guidance"),
        "timestep_shift": (args.shift, "--shift"),
        "height": (height, "--size" if args.size else "--height"),
        "width": (width, "--size" if args.size else "--width"),
        "think": (args.think or None, "--think"),
        "image": (args.image or None, "--image"),
    }
    for name, (value, option) in given.items():
        if value is not None and name not in known:
            raise Echo4oError(
                f"{args.model} is a model of {kind}, which has no {option}; leave it out"
            )
    return {
        name: known[name].default if given[name][0] is None else given[name][0]
        for name in given
        if name in KINDS[kind].settings
    }


def _repeat(args: argparse.Namespace) -> None:
    """Make a picture again and say whether it is the same."""
    from .pictures import read_record
    from .repeat import compare, find_references, read_request, recorded_dtype, use_threads

    if args.prompt is not None:
        raise Echo4oError("--again takes the prompt from the picture; leave it out")
    given = [name for name, value in args.untouched.items() if getattr(args, name) != value]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise Echo4oError(f"--again takes {names} from the picture; leave it out")
    record = read_request(args.again)
    pictures = [
        open_picture(path) for path in find_references(record, args.image, args.again.parent)
    ]
    old = open_picture(args.again)
    use_threads(record)
    args.model, args.revision = args.model or record.model, args.revision or record.revision
    args.dtype = args.dtype or recorded_dtype(record)
    if args.device is None and record.runtime.get("device") == "cpu":
        args.device = "cpu"
    kind = _kind(args)
    if set(record.parameters) != set(KINDS[kind].settings):
        raise Echo4oError(
            f"{args.again} was not made by {kind}, which opens {args.model}; give the model that "
            "made it"
        )
    pipe = open_kind(args, kind)
    uses = [AdapterChoice(use.source, use.weight, use.revision) for use in record.adapters]
    made_of = use_adapters(pipe, uses, any_base=True)
    for then, now in zip(record.adapters, made_of, strict=True):
        if then.sha256 != now.sha256:
            raise Echo4oError(f"the adapter {then.source} has other weights than then")
    path = args.out / f"{args.again.stem}-again.png"
    new = _paint(pipe, record, pictures, path)
    print(compare(record, read_record(path), old.convert("RGB"), new), file=sys.stderr)
    print(path)


def _paint(
    pipe: Any, request: "PictureRecord", pictures: "list[Image.Image]", path: Path
) -> "Image.Image":
    """Make one picture, save it with its record."""
    import torch

    from .calls import Echo4oPipelineOutput
    from .pictures import save_picture
    from .repeat import runtime

    assert request.seed is not None
    generator = torch.Generator().manual_seed(request.seed)
    references = {"image": pictures} if pictures else {}
    result = pipe(request.prompt, generator=generator, **references, **request.parameters)
    assert isinstance(result, Echo4oPipelineOutput)
    if result.thoughts:
        print(f"plan: {result.thoughts[0]}", file=sys.stderr)
    (image,) = cast("list[Image.Image]", result.images)
    size = {"height": image.height, "width": image.width}
    parameters = request.parameters | {n: v for n, v in size.items() if n in request.parameters}
    record = replace(request, parameters=parameters, runtime=runtime(pipe))
    save_picture(path, image, record)
    return image


def ask_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ask`."""
    model_arguments(parser)
    parser.add_argument("picture", nargs="*", type=Path, help="0 to 4 picture files")
    parser.add_argument("question", help="what to ask about them")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="limit of the answer")
    parser.add_argument("--think", action="store_true", help="let the model reason first")


def ask(args: argparse.Namespace) -> None:
    """Print the model's answer."""
    pictures = [open_picture(path) for path in args.picture]
    pipe = open_model(args)
    answer = pipe.understand(
        pictures,
        args.question,
        max_new_tokens=args.max_new_tokens,
        think=args.think,
        streamer=_Progress(args.max_new_tokens),
    )
    print(answer)


class _Progress:
    """A streamer that counts tokens on stderr when the answer takes longer than two seconds."""

    def __init__(self, limit: int) -> None:
        self.bar = tqdm(total=limit, unit="token", desc="answering", delay=2, leave=False)

    def put(self, value: object) -> None:
        """One more token."""
        self.bar.update()

    def end(self) -> None:
        """The answer is written."""
        self.bar.close()


def _size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels, or one side of a square."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give for example 1024x768")
    return int(match[1]), int(match[2] or match[1])


def _slug(prompt: str, limit: int = 40) -> str:
    """A file name that hints at the prompt."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:limit].strip("-") or "picture"
