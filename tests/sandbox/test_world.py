"""The world: what is painted is seen again, and what is wrong is noticed."""

import io
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from echo4o.sandbox.world import (
    COLOURS,
    OBJECTS,
    SHAPES,
    CrowdedError,
    check,
    describe,
    paint,
    parse,
    see,
)
from echo4o.sandbox.world.scenes import random_scene


def all_right(picture: Image.Image, include: list[dict], exclude: list[dict] = ()) -> bool:
    return all(finding.ok for finding in check(see(picture), include, exclude))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (256, 256), (1024, 1536)])
def test_every_painted_scene_is_seen_as_it_was_asked_for(size):
    count = 400 if size == (64, 64) else 12
    for number in range(count):
        prompt, include = random_scene(random.Random(number))
        picture = paint(prompt, width=size[0], height=size[1], seed=number)
        findings = check(see(picture), include)
        assert all(finding.ok for finding in findings), (prompt, findings)


def test_each_wrong_fact_is_noticed():
    prompt = "A photo of two red circles on the left and one large blue square on the right"
    picture = paint(prompt, width=64, height=64, seed=1)
    right = [
        {"class": "circle", "count": 2, "color": "red", "region": "left"},
        {"class": "square", "count": 1, "color": "blue", "region": "right", "size": "large"},
    ]
    assert all_right(picture, right)
    for line, wrong in [
        (0, {"count": 3}),
        (0, {"count": 1}),
        (0, {"color": "orange"}),
        (0, {"class": "ring"}),
        (0, {"region": "right"}),
        (1, {"size": "small"}),
        (1, {"region": "left"}),
        (1, {"class": "bus"}),
    ]:
        changed = [dict(entry) for entry in right]
        changed[line].update(wrong)
        assert not all_right(picture, changed), wrong
    assert not all_right(picture, right[:1]), "an object nobody asked for must count"
    assert not all_right(picture, right, [{"class": "circle", "count": 2}])
    assert all_right(picture, right, [{"class": "circle", "count": 3}])


def test_relative_sizes_compare_the_two_objects():
    prompt = "A photo of a large ring on the top and a small cross on the bottom"
    picture = paint(prompt, width=64, height=64, seed=3)
    lines = [
        {"class": "ring", "count": 1, "size": "larger", "region": "above"},
        {"class": "cross", "count": 1, "size": "smaller", "region": "below"},
    ]
    assert all_right(picture, lines)
    swapped = [{**lines[0], "size": "smaller"}, {**lines[1], "size": "larger"}]
    assert not all_right(picture, swapped)


def test_noise_and_blank_pictures_satisfy_nothing():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.new("RGB", (64, 64), "white")):
        for shape in SHAPES:
            assert not check(see(picture), [{"class": shape, "count": 1}])[0].ok


def test_a_jpeg_copy_is_seen_the_same():
    for number in range(60):
        prompt, include = random_scene(random.Random(f"jpeg{number}"))
        data = io.BytesIO()
        paint(prompt, width=128, height=128, seed=number).save(data, "JPEG")
        assert all_right(Image.open(data), include), prompt


def test_a_crowd_is_painted_or_refused_at_once():
    crowd = "nine large red rings on the left and "
    assert paint(crowd * 7, width=64, height=64, seed=1).size == (64, 64)
    with pytest.raises(CrowdedError, match="at most 64 objects fit a picture, 72 are named"):
        paint(crowd * 8, width=64, height=64, seed=1)
    begun = time.monotonic()
    assert parse("red " * 8000) == []
    assert time.monotonic() - begun < 3, "time must grow with the length, not with its square"


def test_painting_is_deterministic_and_seeded():
    asked = {"width": 64, "height": 64}
    one = paint("A photo of a red bar", seed=5, **asked)
    assert one.tobytes() == paint("A photo of a red bar", seed=5, **asked).tobytes()
    assert one.tobytes() != paint("A photo of a red bar", seed=6, **asked).tobytes()


def test_references_are_cut_out_and_put_in_their_places():
    first = paint("A photo of a pink ring", width=64, height=64, seed=1)
    second = paint("A photo of a green cross", width=64, height=64, seed=2)
    prompt = "Put the object from image 2 on the left and the object from image 1 on the right"
    picture = paint(prompt, width=64, height=64, seed=3, references=[first, second])
    lines = [
        {"class": "cross", "count": 1, "color": "green", "region": "left"},
        {"class": "ring", "count": 1, "color": "pink", "region": "right"},
    ]
    assert all_right(picture, lines), describe(see(picture))
    by_name = "Put the green cross on the top and the pink ring on the bottom"
    picture = paint(by_name, width=64, height=64, seed=3, references=[first, second])
    lines[0]["region"], lines[1]["region"] = "above", "below"
    assert all_right(picture, lines), describe(see(picture))


def test_everyday_objects_keep_or_lose_their_regular_look():
    shape, colour = OBJECTS["sun"]
    plain = paint("A photo of a sun", width=64, height=64, seed=0)
    assert all_right(plain, [{"class": shape, "color": colour, "count": 1}])
    odd = paint("A photo of a square blue sun", width=64, height=64, seed=0)
    assert all_right(odd, [{"class": "square", "color": "blue", "count": 1}])


def test_misalign_gets_a_fact_wrong():
    for number in range(30):
        prompt, include = random_scene(random.Random(f"mis{number}"))
        picture = paint(prompt, width=64, height=64, seed=number, misalign=True)
        assert not all_right(picture, include), prompt


def test_the_grammar_reads_number_size_colour_noun_and_place():
    groups = parse("a photo of three small red-colored crosses at the top, and an orange ring")
    assert groups[0] == replace(groups[0], shape="cross", count=3, colour="red", region="above")
    assert groups[0].size == "small"
    assert (groups[1].shape, groups[1].colour, groups[1].region) == ("ring", "orange", None)
    assert parse("A photo of two crosss")[0].count == 2, "the naive plural of GenEval++"
    assert parse("nothing that the world knows") == []


def test_description_round_trips_through_the_grammar():
    prompt, _ = random_scene(random.Random(9))
    seen = see(paint(prompt, width=64, height=64, seed=9))
    counts = {(group.shape, group.colour): group.count for group in parse(describe(seen))}
    assert counts == {(group.shape, group.colour): group.count for group in parse(prompt)}
    assert set(COLOURS) >= {colour for _, colour in counts}
