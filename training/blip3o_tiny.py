"""Makes the small BLIP3-o of the recipe `tiny_blip3o`: its frozen parts are taught here, briefly.

A published BLIP3-o starts from parts that know something: a text model that understands prompts, a
vision tower whose features hold what is in a picture, and a decoder that draws them. So do these.
Its transformer, all that is trained later but for the queries, stays random.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from echo4o.launch import is_first_rank
from echo4o.models.blip3o import Blip3oPipeline, Blip3oTransformer
from echo4o.models.blip3o.prompting import ADDED_TOKENS, encode_prompts, prompt_text
from echo4o.models.blip3o.tower import EvaTower, prepare
from echo4o.models.pixels import to_rgb

from .data import Rows, UnusableRowError, decode_picture
from .parts import TinyBlip3o
from .tiny_text import MARKS, text_encoder
from .tokenizer import train_tokenizer

T = TypeVar("T")

_PICTURES = 2000
"""Of the dataset, from which tower and decoder learn."""
_BATCH = 64
_TEXT_BATCH = 32
_NEAR = 4
"""Words on either side that the state of a query tells, besides its own."""
_FEATURE_NOISE = 0.1
"""What the decoder learns to live with, in units of the features' spread."""
_CELL = 16
"""Pixels of a feature token's side."""


class Made(NamedTuple):
    """The small BLIP3-o."""

    pipeline: Blip3oPipeline
    tower: EvaTower


def build_blip3o(sizes: TinyBlip3o, vae: AutoencoderKL, rows: Rows, seed: int) -> Made:
    """All of it in memory; the same arguments give the same weights (with as many threads).

    Args:
        sizes: Of everything.
        vae: Its decoder is where the decoder's finer levels start from.
        rows: Texts and pictures to learn from.
        seed: Of all that is random.

    Raises:
        Echo4oError: no row has a picture.
    """
    texts = rows.instructions()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Blip3oTransformer.from_config(transformer_sizes(sizes))
        for layer in transformer.layers:
            nn.init.ones_(layer.gate)  # from 0, the text would be heard only after many steps
        tokenizer = _tokenizer(sizes, texts, prompt_text(transformer.config, ""))
        mllm = text_encoder(sizes, tokenizer)
        _teach_text(mllm, tokenizer, transformer, texts, sizes.text_steps)
        tower = EvaTower(
            width=sizes.feature_channels,
            depth=sizes.tower_layers,
            heads=sizes.feature_channels // 16,
            mlp_size=4 * sizes.feature_channels,
            patch_size=_CELL,  # nothing is left to pool: the quickest to teach
            side=sizes.picture_side,
            grid=sizes.picture_side // _CELL,
        )
        decoder = _decoder(sizes, vae)
        pixels = _pictures(rows, sizes.picture_side)
        _teach_pictures(tower, decoder, vae, pixels, sizes.decoder_steps)
    pipeline = Blip3oPipeline(
        transformer.eval(),
        mllm.eval(),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(),
        decoder.eval(),
        None,
        None,
        picture_side=sizes.picture_side,
    )
    return Made(pipeline, tower.eval())


def transformer_sizes(sizes: TinyBlip3o) -> dict[str, Any]:
    """The transformer's configuration."""
    return {
        "text_size": sizes.text_hidden_size,
        "num_queries": sizes.queries,
        "feature_channels": sizes.feature_channels,
        "grid": sizes.picture_side // _CELL,
        "hidden_size": sizes.hidden_size,
        "num_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "ffn_dim_multiplier": 1.0,
        "multiple_of": 16,
        "system_line": "",
    }


def _tokenizer(sizes: TinyBlip3o, texts: list[str], frame: str) -> Qwen2Tokenizer:
    # What stands around every prompt: frequent, so that its words are one token.
    frames = [frame] * (len(texts) // 2 + 1)
    marks = [*MARKS.values(), *ADDED_TOKENS]
    tokenizer = train_tokenizer([*texts, *frames], sizes.vocab_size - len(marks))
    tokenizer.add_tokens(marks, special_tokens=True)
    return tokenizer


def _teach_text(
    mllm: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    transformer: Blip3oTransformer,
    texts: list[str],
    steps: int,
) -> None:
    """Let the queries' states tell the prompt's words, each with the words around it.

    The last query tells the last word, so that each finds its own at one distance.
    """
    queries, config = transformer.latent_queries, transformer.config
    near = range(-_NEAR, _NEAR + 1)
    heads = nn.Linear(config.text_size, len(near) * len(tokenizer), bias=False)
    trained = [*mllm.model.language_model.parameters(), queries, *heads.parameters()]
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    reach = config.num_queries + 2 * _NEAR
    spare = tokenizer.pad_token_id

    def loss(batch: list[str]) -> Tensor:
        framed = [prompt_text(config, text) for text in batch]
        states = encode_prompts(mllm, tokenizer, queries, framed)
        labels = torch.full((len(batch), reach), spare)
        for place, text in enumerate(batch):
            ids = tokenizer.encode(text)[-config.num_queries :]
            labels[place, reach - _NEAR - len(ids) : reach - _NEAR] = torch.tensor(ids)
        wanted = labels.unfold(1, len(near), 1)  # (B, Q, words around)
        found = heads(states).unflatten(-1, (len(near), len(tokenizer)))
        return F.cross_entropy(found.flatten(0, 2), wanted.flatten())

    _fit("text model", trained, steps, 3e-3, _batches(distinct, _TEXT_BATCH), loss)


def _teach_pictures(
    tower: EvaTower, decoder: AutoencoderKL, vae: AutoencoderKL, pixels: Tensor, steps: int
) -> None:
    """Let the tower's features hold the picture, and the decoder draw it from them.

    Both learn what the given autoencoder's decoder has inside where its finer levels begin, which
    takes a fraction of the time that pixels would. Features are brought to mean 0 and spread 1 by
    channel, as flow matching likes them.
    """
    bar = tqdm(torch.split(pixels, 64), desc="pictures", disable=not is_first_rank())
    inside = torch.cat([_inside(vae, part) for part in bar])
    spread = inside.std((0, 2, 3), keepdim=True)
    coarse = (decoder.decoder.conv_in, decoder.decoder.mid_block, decoder.decoder.up_blocks[0])
    trained = [*tower.parameters(), *(p for part in coarse for p in part.parameters())]

    def loss(chosen: list[int]) -> Tensor:
        seen = tower.pooled(tower.normalised(pixels[chosen]))
        even = F.batch_norm(seen.flatten(0, 1), None, None, training=True).view_as(seen)
        noisy = even + _FEATURE_NOISE * torch.randn_like(even)
        grid = tower.config.grid
        states = noisy.transpose(1, 2).reshape(len(chosen), -1, grid, grid)
        for part in coarse:
            states = part(states)
        return ((states - inside[chosen]) / spread).square().mean()

    numbers = list(range(len(pixels)))
    _fit("tower and decoder", trained, steps, 2e-3, _batches(numbers, _BATCH), loss)
    tower.standardise([Image.fromarray(one.numpy()) for one in pixels[:500]])


@torch.no_grad()
def _inside(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """What the autoencoder's decoder has, of pixels (B, H, W, 3), before it enlarges anything."""
    pictures = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).to(
        memory_format=torch.channels_last
    )
    latents = vae.encode(pictures).latent_dist.mode()
    return vae.decoder.mid_block(vae.decoder.conv_in(latents))


def _fit(
    name: str,
    trained: Iterable[nn.Parameter],
    steps: int,
    rate: float,
    batches: Iterator[list[T]],
    loss: Callable[[list[T]], Tensor],
) -> None:
    """Lower a loss; the rate rises for a while and falls along a cosine."""
    parameters = list(trained)
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    bar = tqdm(range(steps), desc=name, disable=not is_first_rank())
    for step in bar:
        warm = min(1.0, (step + 1) / min(50, steps))
        optimizer.param_groups[0]["lr"] = (
            rate * warm * max(0.5 * (1 + math.cos(math.pi * step / steps)), 0.01)
        )
        value = loss(next(batches))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{value.item():.3f}")
    for parameter in parameters:
        parameter.grad = None


def _batches(things: list[T], size: int) -> Iterator[list[T]]:
    while True:
        chosen = torch.randint(len(things), (size,)).tolist()
        yield [things[place] for place in chosen]


def _pictures(rows: Rows, side: int) -> Tensor:
    """Pictures to draw, (M, side, side, 3) uint8; some of the rows, spread over all of them."""
    found = []
    for number in range(0, len(rows), max(len(rows) // _PICTURES, 1)):
        try:
            row = rows[number]
            if row.target is not None:
                found.append(prepare(to_rgb(decode_picture(row.target)), side))
        except UnusableRowError:
            continue  # counted when the rows are made ready
        except ValueError:
            continue  # more than 8 bits per channel; as above
    if not found:
        rows.refuse_if_none(0)
    return torch.from_numpy(np.stack(found))


def _decoder(sizes: TinyBlip3o, vae: AutoencoderKL) -> AutoencoderKL:
    """One more level than the given autoencoder has; from there on it starts as that one."""
    given = vae.config
    widths = (*given.block_out_channels, given.block_out_channels[-1])
    made = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=given.layers_per_block,
        latent_channels=sizes.feature_channels,
        norm_num_groups=given.norm_num_groups,
        sample_size=sizes.picture_side,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    old, new = vae.decoder, made.decoder
    for source, target in [
        *zip(old.up_blocks, new.up_blocks[1:], strict=True),
        (old.conv_norm_out, new.conv_norm_out),
        (old.conv_out, new.conv_out),
    ]:
        target.load_state_dict(source.state_dict())
    return made.to(memory_format=torch.channels_last)
