"""GenEval's detector and colour classifier with tiny random models of the real classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import save_box_detector, tiny_clip, tiny_detector
from torch.nn.functional import interpolate
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
)

from echo4o.errors import Echo4oError
from echo4o.eval.geneval_box_detector import BoxDetector
from echo4o.eval.geneval_classes import class_names
from echo4o.eval.geneval_colours import ColourClassifier, cut_out, refuse_open_clip
from echo4o.eval.geneval_detector import InstanceDetector, by_class, prepared
from echo4o.eval.geneval_masks import Geometry
from echo4o.eval.geneval_rules import COLOURS

NAMES = ["cat", "dog", "bus"]


@pytest.fixture(scope="module")
def detector():
    model = tiny_detector(len(NAMES), queries=6, sure=1.0)
    return InstanceDetector(model, dict(enumerate(NAMES)), source="tiny", least_score=0.0)


@pytest.fixture(scope="module")
def classifier():
    return ColourClassifier(*tiny_clip(), source="tiny")


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((640, 480), (800, 1067), (800, 1088)),
        ((2000, 500), (333, 1333), (352, 1344)),
    ],
)
def test_sizes_on_the_way_into_the_model(size, resized, padded):
    assert Geometry.of(*size) == ((size[1], size[0]), resized, padded)


@pytest.mark.parametrize("least", [0.0, 0.3])
@pytest.mark.parametrize("size", [(75, 50), (512, 512), (640, 1000)])
def test_masks_and_boxes_are_those_of_the_long_way(least, size):
    """Every query is resized, every pair is looked at, as the benchmark's detector does."""
    torch.manual_seed(1)
    geometry = Geometry.of(*size)
    cells = [side // 4 for side in geometry.padded]
    classes = torch.randn(12, len(NAMES) + 1) * 4
    masks = interpolate(torch.randn(1, 12, 5, 7) * 3, size=cells, mode="bicubic")[0]
    masks[5:] = torch.round(masks[5:] * 2) / 2  # many pixels are exactly or nearly zero
    masks[3] = -1.0  # an empty one
    resize = {"mode": "bilinear", "align_corners": False}
    all_masks = interpolate(masks[None], size=geometry.padded, **resize)
    all_masks = all_masks[..., : geometry.resized[0], : geometry.resized[1]]
    all_masks = interpolate(all_masks, size=geometry.original, **resize)[0]
    expected = {}
    for query, row in enumerate(classes.softmax(-1)[:, :-1]):
        inside = (all_masks[query] > 0).numpy()
        if not inside.any():
            continue
        ys, xs = np.nonzero(inside)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        sure = all_masks[query].sigmoid().numpy()[inside].mean()
        for label, chance in enumerate(row.tolist()):
            if chance * sure >= least:
                expected.setdefault(NAMES[label], []).append((chance * sure, box, inside))

    found = by_class(classes, masks, geometry, dict(enumerate(NAMES)), least)
    for name, wanted in expected.items():
        wanted.sort(key=lambda one: -one[0])
        order = np.argsort(-found[name].boxes[:, 4])[: len(wanted)]
        for (score, box, mask), number in zip(wanted, order, strict=True):
            assert found[name].boxes[number, 4] == pytest.approx(score, abs=1e-4)
            assert tuple(found[name].boxes[number, :4]) == box
            assert (found[name].masks[number] == mask).all()
    assert sum(map(len, expected.values())) > (3 if least else 30)


def test_a_picture_goes_through_the_detector(detector, tmp_path):
    image = np.asarray(Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB"))
    pixels = prepared(image, Geometry.of(96, 64))
    assert pixels.shape == (3, 800, 1216)
    assert not pixels[:, :, 1200:].any()
    found = detector(image)
    assert found
    for name, objects in found.items():
        assert name in NAMES
        assert objects.masks.shape == (len(objects.boxes), 64, 96)
        assert (objects.boxes[:, 2:4] > objects.boxes[:, :2]).all()


def test_a_detector_of_other_classes_is_refused(detector):
    with pytest.raises(Echo4oError, match=r"knows 3 classes, none of which has the number 3"):
        InstanceDetector(detector._model, {0: "cat", 3: "dog"}, source="tiny")


def test_only_the_object_is_shown_to_the_classifier():
    image = np.full((30, 40, 3), (255, 0, 0), np.uint8)
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:15, 10:20] = True
    crop = np.asarray(cut_out(image, np.array([8.4, 4.6, 21.5, 16.0, 0.9], np.float32), mask))
    assert crop.shape == (11, 14, 3)
    assert (crop[0, 0] == 153).all()
    assert (crop[3, 5] == (255, 0, 0)).all()


@torch.no_grad()
def test_the_colour_is_the_nearest_mean_direction(classifier):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 60, 40, 0.9], [10, 5, 40, 55, 0.8]], dtype=np.float32)
    masks = rng.random((2, 60, 80)) < 0.7
    found = classifier(image, "tv remote", boxes, masks)
    assert len(found) == 2
    assert classifier(image, "tv remote", boxes[:0], masks[:0]) == []

    directions = []
    for colour in COLOURS:
        texts = [f"a photo of a {colour} tv remote", f"a photo of a {colour}-colored tv remote"]
        each = []
        for text in [*texts, f"a photo of a {colour} object"]:
            inputs = classifier._tokenizer([text], return_tensors="pt")
            vector = classifier._model.get_text_features(**inputs).pooler_output[0]
            each.append(vector / vector.norm())
        directions.append(torch.stack(each).mean(0))
    table = torch.stack([one / one.norm() for one in directions])
    for box, mask, colour in zip(boxes, masks, found, strict=True):
        crop = cut_out(image, box, mask)
        side = min(crop.size)
        scaled = crop.resize(
            (max(32, int(crop.width * 32 / side)), max(32, int(crop.height * 32 / side))),
            Image.Resampling.BICUBIC,
        )
        left, top = round((scaled.width - 32) / 2), round((scaled.height - 32) / 2)
        array = np.asarray(scaled.crop((left, top, left + 32, top + 32)), np.float32) / 255
        mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
        deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
        pixels = torch.from_numpy((array - mean) / deviation).permute(2, 0, 1)[None]
        vector = classifier._model.get_image_features(pixel_values=pixels).pooler_output[0]
        assert COLOURS[int((table @ vector).argmax())] == colour


@pytest.mark.parametrize("kind", ["detr", "conditional_detr", "rt_detr", "yolos"])
def test_a_detector_of_boxes_says_what_its_own_processor_reads(kind, tmp_path):
    folder = save_box_detector(tmp_path, kind)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    names = class_names(model.config.id2label, "tiny")
    with torch.no_grad():
        outputs = model(**processor(images=Image.fromarray(pixels), return_tensors="pt"))
    wanted = processor.post_process_object_detection(outputs, 0.3, target_sizes=[(48, 80)])[0]
    found = BoxDetector.from_pretrained(folder, names)(pixels)
    corners = wanted["boxes"].clamp(torch.zeros(4), torch.tensor([80.0, 48] * 2)).round()
    rows = [
        (names[label], score)
        for label, score, box in zip(
            wanted["labels"].tolist(), wanted["scores"].tolist(), corners, strict=True
        )
        if label in names and (box[2:] > box[:2]).all()
    ]
    assert len(rows) > 2
    scored = sorted((name, float(box[4])) for name, one in found.items() for box in one.boxes)
    assert [name for name, _ in scored] == [name for name, _ in sorted(rows)]
    assert [score for _, score in scored] == pytest.approx([score for _, score in sorted(rows)])
    for one in found.values():
        assert one.masks.shape == (len(one.boxes), 48, 80)
        assert (one.boxes[:, :4] <= [80, 48, 80, 48]).all()


def test_classes_with_cocos_own_numbers():
    names = class_names(dict.fromkeys(range(91), "LABEL_0"), "tiny")
    assert (names[1], names[13], names[90]) == ("person", "stop sign", "toothbrush")
    assert len(names) == 80
    assert 12 not in names
    assert class_names(dict.fromkeys(range(91), "N/A") | names, "tiny") == names


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L-14/openai", "hf-hub:laion/CLIP-ViT-B-32"])
def test_names_of_open_clip_are_one_sentence(name):
    with pytest.raises(Echo4oError, match=f"^{name} is how open_clip names models, and "):
        refuse_open_clip(name)
    refuse_open_clip("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
