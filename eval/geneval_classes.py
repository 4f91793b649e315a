"""The 80 things of COCO in the order of its numbers, by the names that GenEval gives them.

A detector's classes are taken by number, never by name: three of these have other names in COCO,
and models write several of them their own way. Some detectors number them from 0 without a gap,
others as COCO's files do, from 1 to 90 with eleven numbers that no thing has.
"""

from collections.abc import Mapping

from echo4o.errors import Echo4oError

NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop"),
    *("computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven"),
    *("toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
_NO_THING = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_MOST_OTHERS = 20
"""Names that a model may write in its own way: "sofa", "tvmonitor", "motorbike" and so on."""


def class_names(labels: Mapping[int, str], source: str) -> dict[int, str]:
    """Return the things by a detector's numbers; refuse one of other classes or another order.

    Args:
        labels: Names by number, as the model's configuration has them.
        source: What to call the model.

    Raises:
        Echo4oError: its classes are not COCO's things, or too few of them have their name where
            COCO has it.
    """
    every = len(NAMES) + len(_NO_THING)
    if len(labels) not in (len(NAMES), every):
        raise Echo4oError(
            f"the detector {source} knows {len(labels)} classes, but GenEval's are the "
            f"{len(NAMES)} things of COCO; name one that was trained on COCO instances"
        )
    numbers = range(every) if len(labels) == every else range(len(NAMES))
    free = _NO_THING if len(labels) == every else ()
    names = dict(zip((one for one in numbers if one not in free), NAMES, strict=True))
    if all(label.upper().startswith("LABEL_") for label in labels.values()):
        return names  # it has no names; nothing is known against it
    others = [
        number
        for number, name in names.items()
        if _plain(labels.get(number, "")) not in (_plain(name), _plain(name.split(" ")[-1]))
    ]
    if len(others) > _MOST_OTHERS:
        first = others[0]
        raise Echo4oError(
            f"the detector {source} has other classes than COCO's things, or another order: "
            f"number {first} is {labels.get(first, 'missing')!r:.40} where COCO has "
            f"{names[first]!r}; name one that was trained on COCO instances"
        )
    return names


def _plain(name: str) -> str:
    return "".join(name.lower().split())
