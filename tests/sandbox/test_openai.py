"""The image API through the official client: pictures, answers, errors, and their sameness."""

import asyncio
import base64
import io
import json
import struct
import zlib

import openai
import pytest
from huggingface_hub.utils import httpx
from PIL import Image
from pydantic import BaseModel

from echo4o.prices import PriceTable
from echo4o.sandbox import world

PROMPT = "A photo of two red circles on the left and one blue square on the right"


@pytest.fixture(scope="module")
def api(sandbox):
    return openai.OpenAI(base_url=sandbox.openai, api_key=sandbox.api_key, max_retries=0)


def picture(reply, number=0):
    return Image.open(io.BytesIO(base64.b64decode(reply.data[number].b64_json)))


def url(image, kind="png"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ask(api, text, *images, **options):
    parts = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": url(image)}} for image in images]
    messages = [{"role": "user", "content": parts}]
    return api.chat.completions.create(model="sandbox-judge", messages=messages, **options)


def test_paints_what_is_asked(api):
    reply = api.images.generate(model="sandbox-image", prompt=PROMPT, size="64x64", n=2)
    assert [picture(reply, number).size for number in (0, 1)] == [(64, 64)] * 2
    assert reply.data[0].b64_json != reply.data[1].b64_json
    for number in (0, 1):
        seen = world.see(picture(reply, number))
        assert sorted((one.colour, one.shape) for one in seen) == [
            ("blue", "square"),
            ("red", "circle"),
            ("red", "circle"),
        ]


def test_reply_follows_from_content_alone(api):
    def once(prompt):
        raw = api.images.with_raw_response.generate(
            model="sandbox-image", prompt=prompt, size="64x64"
        )
        reply = raw.parse()
        return raw.headers["x-request-id"], reply.created, reply.data[0].b64_json

    assert once(PROMPT) == once(PROMPT)
    assert all(a != b for a, b in zip(once(PROMPT), once(PROMPT + "."), strict=True))


def test_usage_is_what_the_price_table_expects(api):
    price = PriceTable.load().price("sandbox-image")
    for size, quality in (("64x64", "low"), ("96x64", "high"), ("256x256", "auto")):
        reply = api.images.generate(
            model="sandbox-image", prompt=PROMPT, size=size, quality=quality
        )
        assert reply.usage.output_tokens == price.output_image_tokens(size, quality)
        assert reply.usage.input_tokens_details.text_tokens == -(-len(PROMPT) // 4)
        assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


def test_rate_limit_headers(api):
    raw = api.images.with_raw_response.generate(model="sandbox-image", prompt="a", size="64x64")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0
    assert raw.headers["x-ratelimit-reset-requests"].endswith("ms")


def test_edit_pastes_three_references(api):
    scenes = ("one red circle", "one green triangle", "one purple diamond")
    files = [png(world.paint(scene, width=64, height=64, seed=3)) for scene in scenes]
    reply = api.images.edit(
        model="sandbox-image",
        image=[(f"{number}.png", data, "image/png") for number, data in enumerate(files)],
        prompt="Put the object from image 1 on the left, the object from image 2 on the right "
        "and the object from image 3 at the top",
        size="128x128",
    )
    seen = {(one.colour, one.shape): one for one in world.see(picture(reply))}
    assert set(seen) == {("red", "circle"), ("green", "triangle"), ("purple", "diamond")}
    assert seen["red", "circle"].x < 0.5 < seen["green", "triangle"].x
    assert seen["purple", "diamond"].y < 0.5
    assert reply.usage.input_tokens_details.image_tokens == 3 * 4


def bomb():
    """A PNG header that claims 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("upload", [bomb(), b"no picture", png(Image.new("RGB", (64, 64)))[:80]])
def test_edit_refuses_bad_pictures(api, upload):
    with pytest.raises(openai.BadRequestError) as caught:
        api.images.edit(model="sandbox-image", image=[("1.png", upload)], prompt="a circle")
    assert caught.value.param == "image"


def test_seventeen_references_are_too_many(api):
    data = png(Image.new("RGB", (32, 32)))
    files = [(f"{number}.png", data) for number in range(17)]
    with pytest.raises(openai.BadRequestError, match="1 to 16 pictures, got 17"):
        api.images.edit(model="sandbox-image", image=files, prompt="a circle")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"model": "sandbox-judge"}, 400, "invalid_model"),
        ({"size": "65x64"}, 400, "invalid_value"),
        ({"size": "99999x64"}, 400, "invalid_value"),
        ({"n": 11}, 400, "invalid_value"),
        ({"quality": "ultra"}, 400, "invalid_value"),
        ({"prompt": " "}, 400, "missing_required_parameter"),
        ({"prompt": "x" * 40_000}, 400, "invalid_value"),
        ({"prompt": "nine red rings " * 2000}, 400, "invalid_value"),
        ({"prompt": "a scene of gore"}, 400, "moderation_blocked"),
        ({"background": "transparent"}, 501, "unsupported"),
        ({"extra_body": {"stream": True}}, 501, "unsupported"),
        ({"extra_body": {"nonsense": 1}}, 400, "unknown_parameter"),
    ],
)
def test_errors_have_status_and_code(api, options, status, code):
    request = {"model": "sandbox-image", "prompt": "one circle", "size": "64x64"} | options
    with pytest.raises(openai.APIStatusError) as caught:
        api.images.generate(**request)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.body["message"]


@pytest.mark.parametrize("path", ["images/generations", "chat/completions"])
@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b"\xff", b'{"model": "sandbox-image", "prompt": "\\ud800 circle"}']
)
def test_a_body_that_is_no_text_is_refused(sandbox, path, body):
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    reply = httpx.post(f"{sandbox.openai}/{path}", content=body, headers=headers, trust_env=False)
    assert reply.status_code == 400
    assert "could not parse" in reply.json()["error"]["message"]


def test_wrong_and_missing_key(sandbox):
    wrong = openai.OpenAI(base_url=sandbox.openai, api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        wrong.models.list()
    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong" not in str(caught.value)


def test_endpoint_that_is_missing_says_so(api):
    with pytest.raises(openai.APIStatusError) as caught:
        api.embeddings.create(model="sandbox-judge", input="x")
    assert caught.value.status_code == 501
    assert "/v1/embeddings" in str(caught.value)


def test_models_and_moderation(api):
    assert {model.id for model in api.models.list()} >= {"sandbox-image", "sandbox-judge"}
    assert api.models.retrieve("sandbox-image").owned_by == "sandbox"
    good, bad = api.moderations.create(input=["a red circle", "a naked person"]).results
    assert (good.flagged, bad.flagged, bad.categories.sexual) == (False, True, True)


class Verdict(BaseModel):
    correct: bool
    reason: str


def test_structured_reply_is_parsed(api):
    scene = world.paint(PROMPT, width=64, height=64, seed=1)
    lines = "This image should contain:\n- red-colored 2 circles present in the image."
    parts = [
        {"type": "text", "text": lines},
        {"type": "image_url", "image_url": {"url": url(scene)}},
    ]
    reply = api.chat.completions.parse(
        model="sandbox-judge",
        messages=[{"role": "user", "content": parts}],
        response_format=Verdict,
    )
    verdict = reply.choices[0].message.parsed
    assert not verdict.correct
    assert "blue square" in verdict.reason


def test_max_tokens_truncates(api):
    scene = world.paint(PROMPT, width=64, height=64, seed=1)
    full = ask(api, "Describe the picture.", scene)
    short = ask(api, "Describe the picture.", scene, max_tokens=3)
    assert full.choices[0].finish_reason == "stop"
    assert short.choices[0].finish_reason == "length"
    assert full.choices[0].message.content.startswith(short.choices[0].message.content)
    assert short.usage.completion_tokens == 3
    assert full.usage.prompt_tokens == 6 + 4 + 4


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"stream": True}, 501),
        ({"n": 2}, 501),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 501),
        ({"temperature": 3}, 400),
        ({"max_tokens": 0}, 400),
        ({"response_format": {"type": "nonsense"}}, 400),
    ],
)
def test_chat_refuses_what_it_cannot_do(api, options, status):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(api, "Hello", **options)
    assert caught.value.status_code == status


def test_pictures_by_address_are_not_fetched(api):
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}
    with pytest.raises(openai.APIStatusError) as caught:
        api.chat.completions.create(
            model="sandbox-judge", messages=[{"role": "user", "content": [part]}]
        )
    assert caught.value.status_code == 501


def test_many_at_once_and_each_is_billed_once(sandbox):
    async def paint_all():
        options = {"base_url": sandbox.openai, "api_key": sandbox.api_key, "max_retries": 0}
        async with openai.AsyncOpenAI(**options) as api:
            calls = [
                api.images.generate(
                    model="sandbox-image", prompt=f"billed {number:02} circles", size="64x64"
                )
                for number in range(24)
            ]
            return await asyncio.gather(*calls)

    log = sandbox.root / "openai" / "calls.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    replies = asyncio.run(paint_all())
    lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    assert len({reply.data[0].b64_json for reply in replies}) == 24
    assert len(lines) == len({line["key"] for line in lines}) == 24
    price = PriceTable.load().price("sandbox-image")
    expected = price.cost(text=5, images=0, output=32)
    assert [line["cost_usd"] for line in lines] == pytest.approx([expected] * 24)
