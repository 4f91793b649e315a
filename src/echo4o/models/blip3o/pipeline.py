"""`Blip3oPipeline`: pictures from texts, drawn as features first.

Shape letters: B pictures, N feature tokens, D feature channels, Q queries, H text size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from ...sampler import initial_noise, sigma_grid
from ..calls import (
    Echo4oPipelineOutput,
    Generators,
    OutputType,
    as_generators,
    as_prompts,
    check_output_type,
    to_output,
)
from ..devices import working_device
from ..parts import PartsPipeline
from . import assembly
from .prompting import NO_TEXT, encode_prompts, prompt_text
from .sampling import decode_latents, denoise_features, denoise_latents
from .transformer import Blip3oTransformer

_LARGEST = 4096
"""Pixels of a side; a configuration from anywhere must not fill the memory."""


class Blip3oPipeline(PartsPipeline):
    """Text to image; adapters as for other diffusers pipelines."""

    _assembly = assembly
    model_cpu_offload_seq = "mllm->transformer->unet->vae"
    _optional_components = ["unet", "decoder_scheduler"]

    def __init__(
        self,
        transformer: Blip3oTransformer,
        mllm: Qwen2_5_VLForConditionalGeneration,
        processor: PreTrainedTokenizerBase,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel | None = None,
        decoder_scheduler: EulerDiscreteScheduler | None = None,
        picture_side: int = 1024,
        decoder_steps: int = 50,
        decoder_guidance_scale: float = 3.0,
    ) -> None:
        """Put the parts together.

        Args:
            transformer: draws features.
            mllm: the frozen language model.
            processor: its tokenizer, with the image token.
            scheduler: of the features.
            vae: the autoencoder of the UNet's latents; without a UNet its latents are the features
                themselves, a square of D channels.
            unet: draws latents from features, as released; None decodes features at once.
            decoder_scheduler: of the UNet.
            picture_side: pixels.
            decoder_steps: of the UNet, unless a call says otherwise.
            decoder_guidance_scale: of the UNet, unless a call says otherwise.

        Raises:
            ValueError: parts that do not fit together.
        """
        super().__init__()
        channels = transformer.config.feature_channels
        wanted = vae.config.latent_channels if unet is None else unet.config.cross_attention_dim
        if wanted != channels or (unet is None) != (decoder_scheduler is None):
            raise ValueError(
                f"features of {channels} channels need a `unet` that reads as many and its "
                f"`decoder_scheduler`, or neither and a `vae` with as many latent channels; got "
                f"{wanted} channels"
            )
        text_size = mllm.config.text_config.hidden_size
        if text_size != transformer.config.text_size:
            raise ValueError(
                f"the language model's states have {text_size} values, and the transformer reads "
                f"{transformer.config.text_size}: they are of two models"
            )
        for name, value, lowest, highest in (
            ("picture_side", picture_side, 8, _LARGEST),
            ("decoder_steps", decoder_steps, 1, 1000),
            ("decoder_guidance_scale", decoder_guidance_scale, 0, 1000),
        ):
            # They come from a file that anybody may have written.
            if not (isinstance(value, int | float) and lowest <= value <= highest):
                raise ValueError(f"`{name}` must be from {lowest} to {highest}, got {value!r}")
        self.register_modules(
            transformer=transformer,
            mllm=mllm,
            processor=processor,
            scheduler=scheduler,
            vae=vae,
            unet=unet,
            decoder_scheduler=decoder_scheduler,
        )
        self.register_to_config(
            picture_side=picture_side,
            decoder_steps=decoder_steps,
            decoder_guidance_scale=decoder_guidance_scale,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int = 30,
        guidance_scale: float = 3.0,
        decoder_steps: int | None = None,
        decoder_guidance_scale: float | None = None,
        max_text_tokens: int = 512,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> Echo4oPipelineOutput | tuple[Any, ...]:
        """Make square pictures of the side that the model was made for.

        Args:
            prompt: one text, or a list for a batch.
            num_inference_steps: denoising steps of the features.
            guidance_scale: weight of the text, up to 1 switches the guidance off.
            decoder_steps: denoising steps of the UNet; default as saved with the model.
            decoder_guidance_scale: weight of the features in the UNet; default as saved.
            max_text_tokens: longer texts are cut.
            num_images_per_prompt: pictures per prompt.
            generator: one for all pictures, or one per picture: a seed then gives the same picture
                alone and in every batch.
            output_type: "pil", "np", or "latent" for the features (N, D).
            return_dict: False returns a tuple.

        Raises:
            ValueError: an argument is out of range; says which and what to give.
        """
        prompts = as_prompts(prompt)
        total = len(prompts) * num_images_per_prompt
        if min(total, max_text_tokens) < 1:
            raise ValueError(
                "give at least 1 picture per prompt and 1 text token; got `num_images_per_prompt` "
                f"{num_images_per_prompt} and `max_text_tokens` {max_text_tokens}"
            )
        check_output_type(output_type)
        if decoder_steps is None:
            decoder_steps = self.config.decoder_steps
        if decoder_guidance_scale is None:
            decoder_guidance_scale = self.config.decoder_guidance_scale
        for name, scale in (
            ("guidance_scale", guidance_scale),
            ("decoder_guidance_scale", decoder_guidance_scale),
        ):
            if not 0 <= scale < float("inf"):
                raise ValueError(f"`{name}` must be a finite number from 0, got {scale}")
        sigma_grid(num_inference_steps)  # refuses what is no number of steps
        if self.unet is not None and decoder_steps < 1:
            raise ValueError(f"`decoder_steps` must be at least 1, got {decoder_steps}")

        generators = as_generators(generator, total)
        decoding = output_type != "latent" and self.unet is not None
        led = decoding and decoder_guidance_scale > 1
        texts = [prompt_text(self.transformer.config, one) for one in prompts]
        states = self.encode_texts([*texts, NO_TEXT] if led else texts, max_text_tokens)
        condition = states[: len(prompts)].repeat_interleave(num_images_per_prompt, dim=0)
        shape = (self.transformer.config.grid**2, self.transformer.config.feature_channels)
        device = working_device(self.transformer)
        noise = initial_noise(shape, generators, device)
        if led:  # every picture draws its own features of no text
            noise = torch.cat([noise, initial_noise(shape, generators, device)])
            condition = torch.cat([condition, states[-1:].expand(total, -1, -1)])
        with self.progress_bar(
            total=num_inference_steps + (decoder_steps if decoding else 0)
        ) as bar:
            features = denoise_features(
                self.transformer,
                self.scheduler,
                noise,
                condition.to(device),
                num_steps=num_inference_steps,
                scale=guidance_scale,
                advance=bar.update,
            )
            found = features[:total]
            if output_type != "latent":
                latents = self._latents(
                    found,
                    features[total:] if led else None,
                    generators,
                    decoder_steps,
                    decoder_guidance_scale,
                    bar.update,
                )
                found = decode_latents(self.vae, latents)
        self.maybe_free_model_hooks()
        images = list(to_output(found, output_type))
        return Echo4oPipelineOutput(images=images) if return_dict else (images,)

    def encode_texts(self, texts: Sequence[str], max_tokens: int = 512) -> Tensor:
        """States of the queries behind whole texts (B, Q, H); gradients reach the queries."""
        return encode_prompts(
            self.mllm, self.processor, self.transformer.latent_queries, texts, max_tokens
        )

    def _latents(
        self,
        features: Tensor,
        negative: Tensor | None,
        generators: Sequence[torch.Generator | None],
        steps: int,
        scale: float,
        advance: Any,
    ) -> Tensor:
        """The autoencoder's latents: drawn by the UNet, or the features as a square."""
        if self.unet is None:
            grid = self.transformer.config.grid
            return features.transpose(1, 2).reshape(len(features), -1, grid, grid)
        side = self.config.picture_side
        rows = side // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (self.unet.config.in_channels, rows, rows)
        device = working_device(self.unet)
        return denoise_latents(
            self.unet,
            self.decoder_scheduler,
            initial_noise(shape, generators, device),
            features.to(device),
            None if negative is None else negative.to(device),
            side=side,
            num_steps=steps,
            scale=scale,
            advance=advance,
        )
