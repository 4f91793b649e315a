"""Recorded order of what an inference case appended to its contexts, against our packing."""

import math

import torch
from recorded import Case

from echo4o.models.bagel.conditioning import Conditioner, Part
from echo4o.models.bagel.packing import Segment, TextSegment, VaeSegment, VitSegment, pack
from echo4o.models.pixels import to_pixels, to_rgb

OPERATIONS = {TextSegment: "text", VaeSegment: "vae", VitSegment: "vit"}


def check_events(case: Case, conditioner: Conditioner, parts: list[Part]) -> None:
    """What was appended, in order: tokens and positions of every segment, and what stood before.

    A text goes to the full context, then to the one without pictures.
    """
    config, rows = case.pipe.model.config, ([], [])
    order: list[tuple[int, int, Segment]] = []
    for part in parts:
        if isinstance(part, str):
            segments = [(0, conditioner.text(part)), (1, conditioner.text(part))]
        else:
            resized = case.vae_rule.resize(to_rgb(part))
            cells = torch.zeros(config.latent_channels, resized.height // 8, resized.width // 8)
            segments = [(0, VitSegment(to_pixels(case.vit_rule.resize(resized))))]
            if not case.request["args"].get("understanding_output"):
                segments.insert(0, (0, VaeSegment(cells, noised=False)))
        for row, segment in segments:
            order.append((row, len(rows[row]), segment))
            rows[row].append(segment)
    batch = pack([row for row in rows if row], config)
    for event, (row, index, segment) in zip(case.result["events"], order, strict=False):
        lens = batch.split_lens[row]
        before, start = sum(lens[:index]), sum(batch.sample_lens[:row])
        places = batch.position_ids[start + before : start + before + lens[index]]
        assert (event["kv"], event["pos"]) == ([before], places.unique().tolist())
        assert event["op"] == OPERATIONS[type(segment)]
        if isinstance(segment, TextSegment):
            assert event["ids"] == [config.bos_token_id, *segment.token_ids, config.eos_token_id]
        elif isinstance(segment, VaeSegment):
            assert lens[index] == math.prod(event["shapes"][0]) + 2
        else:
            assert lens[index] == event["n"] + 2
    assert len(case.result["events"]) - len(order) == (1 if is_planned(case) else 0)


def is_planned(case: Case) -> bool:
    """Whether a text was written and then put into the full context."""
    args = case.request["args"]
    return bool(args.get("think")) and not args.get("understanding_output")
