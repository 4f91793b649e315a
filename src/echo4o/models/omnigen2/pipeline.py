"""`OmniGen2Pipeline`: pictures from a text and up to five reference pictures.

Shape letters: B pictures, C latent channels, H and W latent rows and columns, L text tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from ...sampler import initial_noise
from ..calls import (
    Echo4oPipelineOutput,
    Generators,
    OutputType,
    Pictures,
    after_step,
    as_generators,
    as_picture_lists,
    as_prompts,
    check_output_type,
    check_text,
    to_output,
)
from ..devices import working_device
from ..parts import PartsPipeline
from ..pixels import to_pixels, to_rgb
from . import assembly
from .denoising import Conditions, DoubleGuidance, denoise
from .processor import STRIDE, chat_text, reference_size, resized
from .transformer import MAX_REFERENCES, OmniGen2Transformer2DModel

Callback = Callable[["OmniGen2Pipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class OmniGen2Pipeline(PartsPipeline):
    """Text to image, editing and several references; adapters as for other diffusers pipelines."""

    _assembly = assembly
    model_cpu_offload_seq = "mllm->transformer->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: OmniGen2Transformer2DModel,
        vae: AutoencoderKL,
        scheduler: FlowMatchEulerDiscreteScheduler,
        mllm: Qwen2_5_VLForConditionalGeneration,
        processor: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, vae=vae, scheduler=scheduler, mllm=mllm, processor=processor
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Pictures = None,
        *,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        max_pixels: int = 1024 * 1024,
        max_reference_side: int = 2048,
        max_text_tokens: int = 1024,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        callback_on_step_end: Callback | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> Echo4oPipelineOutput | tuple[Any, ...]:
        """Make pictures.

        Args:
            prompt: one text, or a list for a batch.
            image: 1 to 5 reference pictures for every prompt, or one list per prompt.
            negative_prompt: what the guidance leads away from.
            height: pixels; default: the size of a single reference, else 1024 (8 times the
                transformer's `sample_size`). A size that is no multiple of 16, or above
                `max_pixels`, is made smaller and scaled up at the end.
            width: the same; give both or none.
            num_inference_steps: denoising steps.
            guidance_scale: weight of the text, up to 1 switches all guidance off.
            image_guidance_scale: weight of the references; default 2 with references (1.2 to 2 is
                advised for edits, 2.5 to 3 for several), else it has no effect.
            guidance_interval: guidance acts at step i of N where low <= i / N <= high.
            max_pixels: limit of the result and of each reference.
            max_reference_side: limit of a reference's longer side.
            max_text_tokens: longer prompts are cut.
            num_images_per_prompt: pictures per prompt.
            generator: one for all pictures, or one per picture: a seed then gives the same picture
                alone and in every batch.
            latents: initial noise (B, C, H, W), instead of a generator.
            callback_on_step_end: called as in diffusers with (pipe, step, timestep,
                {"latents": ...}); may return a changed {"latents": ...}.
            output_type: "pil", "np" or "latent".
            return_dict: False returns a tuple.

        Raises:
            ValueError: an argument is out of range; says which and what to give.
        """
        # 1. Read the request.
        prompts = as_prompts(prompt)
        check_text(negative_prompt)
        pictures = as_picture_lists(image, len(prompts))
        most = max(len(own) for own in pictures)
        if most > MAX_REFERENCES or min(num_images_per_prompt, max_text_tokens) < 1:
            raise ValueError(
                f"give at most {MAX_REFERENCES} references and at least 1 picture per prompt and 1 "
                f"text token; got {most} references, `num_images_per_prompt` "
                f"{num_images_per_prompt} and `max_text_tokens` {max_text_tokens}"
            )
        if (height is None) != (width is None):
            raise ValueError(f"give both `height` and `width` or none, got {height} and {width}")
        check_output_type(output_type)
        if image_guidance_scale is None:
            image_guidance_scale = 2.0 if most else 1.0
        guidance = DoubleGuidance(
            text_scale=guidance_scale,
            image_scale=image_guidance_scale,
            interval=guidance_interval,
        )
        total = len(prompts) * num_images_per_prompt
        generators = as_generators(generator, total)
        asked = [
            self._asked(height, width, own, max_pixels, max_reference_side) for own in pictures
        ]

        # 2. Encode texts and references once; every picture draws its own sample of a reference.
        texts = self.encode_text([*prompts, negative_prompt], max_text_tokens)
        moments = [
            [self._moments(one, max_pixels, max_reference_side) for one in own] for own in pictures
        ]
        conditions = []
        for index in range(total):
            number = index // num_images_per_prompt
            drawn = [self._drawn(pair, generators[index]) for pair in moments[number]]
            conditions.append(Conditions(texts[number], texts[-1], drawn))

        # 3. Denoise pictures of one size together, and decode.
        results: dict[int, Any] = {}
        for size in dict.fromkeys(asked):
            members = [
                index for index in range(total) if asked[index // num_images_per_prompt] == size
            ]
            made = reference_size(size[1], size[0], max_pixels, max(size))[::-1]
            noise = self._noise(made, members, generators, latents)
            with self.progress_bar(total=num_inference_steps) as bar:
                step_end = after_step(self, bar.update, callback_on_step_end)
                final = denoise(
                    self.transformer,
                    self.scheduler,
                    noise,
                    [conditions[index] for index in members],
                    guidance,
                    num_inference_steps,
                    step_end,
                )
            decoded = final if output_type == "latent" else self.decode_latents(final, size)
            results |= dict(zip(members, to_output(decoded, output_type), strict=True))
        self.maybe_free_model_hooks()
        images = [results[index] for index in range(total)]
        return Echo4oPipelineOutput(images=images) if return_dict else (images,)

    def encode_text(self, texts: Sequence[str], max_tokens: int = 1024) -> list[Tensor]:
        """Last hidden states of the text encoder, one (L, text size) each, without padding."""
        inputs = self.processor(
            [chat_text(text) for text in texts],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        ).to(working_device(self.mllm))
        mask = inputs["attention_mask"]
        # The whole model is called, so that offloading hooks see it; one row of logits is made.
        found = self.mllm(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        states, lengths = found.hidden_states[-1], mask.sum(dim=1).tolist()
        return [one[:length] for one, length in zip(states, lengths, strict=True)]

    def decode_latents(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, C, H, W) -> pixels (B, 3, height, width) of `size`, about [-1, 1]."""
        device, dtype = working_device(self.vae), self.vae.dtype
        config = self.vae.config
        scaled = latents.to(device, dtype) / config.scaling_factor + config.shift_factor
        pixels = torch.cat([self.vae.decode(one[None]).sample.float() for one in scaled])
        if pixels.shape[-2:] == size:
            return pixels
        return interpolate(pixels, size=size, mode="bilinear")

    def _asked(
        self,
        height: int | None,
        width: int | None,
        references: Sequence[Any],
        max_pixels: int,
        max_side: int,
    ) -> tuple[int, int]:
        """The (height, width) of a result."""
        if height is not None and width is not None:
            if min(height, width) < STRIDE:
                raise ValueError(
                    f"`height` and `width` must be at least {STRIDE}, got {height} and {width}"
                )
            return height, width
        if len(references) == 1:
            found = reference_size(*to_rgb(references[0]).size, max_pixels, max_side)
            return found[1], found[0]
        side = (
            int(self.transformer.config.sample_size) * STRIDE // self.transformer.config.patch_size
        )
        return side, side

    def _moments(self, image: Any, max_pixels: int, max_side: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of a reference's latents, scaled (C, H, W)."""
        pixels = to_pixels(resized(to_rgb(image), max_pixels, max_side))[None]
        encoded = self.vae.encode(pixels.to(working_device(self.vae), self.vae.dtype))
        dist, config = encoded.latent_dist, self.vae.config
        mean = (dist.mean[0] - config.shift_factor) * config.scaling_factor
        return mean, dist.std[0] * config.scaling_factor

    def _drawn(self, moments: tuple[Tensor, Tensor], generator: torch.Generator | None) -> Tensor:
        """A sample of a reference's latents: the model was trained on samples, not on means."""
        mean, deviation = moments
        noise = initial_noise(tuple(mean.shape), [generator], mean.device)[0]
        return (mean + deviation * noise).to(working_device(self.transformer))

    def _noise(
        self,
        size: tuple[int, int],
        members: Sequence[int],
        generators: Sequence[torch.Generator | None],
        latents: Tensor | None,
    ) -> Tensor:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        channels = self.transformer.config.in_channels
        shape = (channels, size[0] // factor, size[1] // factor)
        device, dtype = working_device(self.transformer), self.transformer.dtype
        if latents is None:
            return initial_noise(shape, [generators[k] for k in members], device).to(dtype)
        if latents.shape != (len(generators), *shape):
            raise ValueError(
                f"`latents` must have the shape {(len(generators), *shape)} (pictures, channels, "
                f"rows, columns), got {tuple(latents.shape)}"
            )
        return latents[list(members)].to(device, dtype)
