"""`Echo4oPipeline`: pictures from texts and pictures, and answers about pictures.

Shape letters: B pictures, N latent tokens, P values per token.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import Qwen2Tokenizer

from ...sampler import Renorm, initial_noise, sigma_grid
from ..autoencoder import channels_last, tune
from ..calls import (
    Echo4oPipelineOutput,
    Generators,
    OutputType,
    Pictures,
    after_step,
    as_generators,
    check_output_type,
    to_output,
)
from ..devices import keep_freed_memory, working_device
from . import assembly
from .arguments import as_requests, guidance_for
from .checkpoint import LayoutName, locate
from .conditioning import (
    PLANNING_PROMPT,
    Branches,
    Conditioner,
    Part,
    check_requests,
)
from .denoising import GuidedVelocity, denoise
from .lora import LoraMixin
from .modeling import BagelForUnifiedGeneration
from .offload import OffloadMixin
from .packing import unpatchify
from .processor import check_size
from .step_cache import StepCacheMixin
from .writing import WritingMixin

logger = logging.getLogger(__name__)

Callback = Callable[["Echo4oPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class Echo4oPipeline(LoraMixin, StepCacheMixin, WritingMixin, OffloadMixin):
    """Text to image, editing, several references, and understanding, with one model."""

    model_cpu_offload_seq = "model->vae"
    _callback_tensor_inputs = ["latents"]
    source_id: str | None = None
    """Where the pipeline was loaded from: Hub id or folder."""
    source_revision: str | None = None
    """Commit of the Hub repository, when it was loaded from one."""

    def __init__(
        self,
        model: BagelForUnifiedGeneration,
        vae: AutoencoderKL,
        scheduler: FlowMatchEulerDiscreteScheduler,
        tokenizer: Qwen2Tokenizer,
    ) -> None:
        super().__init__()
        self.register_modules(model=model, vae=vae, scheduler=scheduler, tokenizer=tokenizer)
        tune(vae)
        keep_freed_memory()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        cache_dir: str | Path | None = None,
    ) -> "Echo4oPipeline":
        """Load a folder or Hub id in our layout or the authors', also from an inner folder.

        Args:
            name: folder or Hub id.
            revision: branch, tag or commit of the Hub repository.
            dtype: of the main model, default as stored; the autoencoder stays fp32.
            device_map: "cpu", "cuda", "balanced" or "auto" (the same as "balanced").
            attn_implementation: "sdpa" (default), "eager" or "flex_attention".
            quantization_config: of transformers, or a bare one of torchao, for the main model.
            cache_dir: where downloads are kept.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged or does not fit.
        """
        located = locate(name, revision=revision, cache_dir=cache_dir)
        parts = assembly.load_components(
            located,
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
        )
        pipe = cls(*parts)
        pipe.source_id, pipe.source_revision = str(name), located.revision
        return pipe

    def save_pretrained(
        self, save_directory: str | Path, *, layout: LayoutName = "echo4o", **kwargs: Any
    ) -> None:
        """Write a folder that `from_pretrained` reads, in our layout or the authors'.

        `kwargs` go to diffusers (our layout only), for example `max_shard_size="5GB"`.
        """
        folder = Path(save_directory)
        if layout not in ("echo4o", "bagel"):
            raise ValueError(f'`layout` must be "echo4o" or "bagel", got {layout!r}')
        if layout == "bagel" and kwargs:
            raise ValueError(f'layout="bagel" takes no further options, got {", ".join(kwargs)}')
        self.check_no_adapters()
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "bagel":
            parts = (self.model, self.vae, self.scheduler, self.tokenizer)
            assembly.save_bagel(folder, assembly.Components(*parts))
            return
        super().save_pretrained(folder, **kwargs)
        assembly.finish_echo4o(folder)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Pictures = None,
        *,
        segments: Sequence[Part] | Sequence[Sequence[Part]] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 49,
        guidance_scale: float = 4.0,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_renorm: Renorm | None = None,
        guidance_renorm_min: float = 0.0,
        timestep_shift: float = 3.0,
        think: bool = False,
        max_think_tokens: int = 1000,
        streamer: Any = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        reference_noise: Sequence[Tensor] | None = None,
        callback_on_step_end: Callback | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> Echo4oPipelineOutput | tuple[Any, ...]:
        """Make pictures.

        Args:
            prompt: one text, or a list for a batch; "" is unconditional.
            image: 1 to 4 reference pictures put in front of every prompt, or one list per prompt.
            segments: instead of both: texts and pictures in any order, or a list of such.
            height: pixels, a multiple of 16; default: the last reference's size, else 1024 (or
                what the model's position table allows).
            width: the same; give both or none.
            num_inference_steps: denoising steps (the authors' `num_timesteps` minus one).
            guidance_scale: weight of the text, up to 1 switches all guidance off.
            image_guidance_scale: weight of the references; default 2 with references, else 1.
            guidance_interval: shifted times (low, high] in which guidance acts; default (0, 1]
                with references, else (0.4, 1].
            guidance_renorm: "global", "channel", "text_channel" or "none"; default
                "text_channel" with references, else "global".
            guidance_renorm_min: lower limit of the renormalisation factor.
            timestep_shift: moves steps towards noise; 1 is uniform.
            think: let the model write a plan first; it is returned in `thoughts`.
            max_think_tokens: limit of that plan.
            streamer: a transformers streamer that gets every token of that plan.
            num_images_per_prompt: pictures per prompt.
            generator: one for all pictures, or one per picture: a seed then gives the same picture
                alone and in every batch.
            latents: initial noise (B, N, P) in token layout, instead of a generator.
            reference_noise: noise of the autoencoder's sampling, one (1, channels, rows, columns)
                per reference, to repeat a recorded run.
            callback_on_step_end: called as in diffusers with (pipe, step, timestep,
                {"latents": ...}); may return a changed {"latents": ...}.
            output_type: "pil", "np" or "latent".
            return_dict: False returns a tuple.

        Raises:
            ValueError: an argument is out of range; says which and what to give.
        """
        # 1. Read the request.
        requests = as_requests(prompt, image, segments)
        check_requests(requests)
        guidance = {  # what is not given differs with references and without
            with_pictures: guidance_for(
                with_pictures,
                guidance_scale,
                image_guidance_scale,
                guidance_interval,
                guidance_renorm,
                guidance_renorm_min,
            )
            for with_pictures in (False, True)
        }
        sigmas = sigma_grid(num_inference_steps)
        if not 0 < timestep_shift < float("inf"):
            raise ValueError(f"`timestep_shift` must be a positive number, got {timestep_shift}")
        if num_images_per_prompt < 1:
            raise ValueError(
                f"`num_images_per_prompt` must be at least 1, got {num_images_per_prompt}"
            )
        check_output_type(output_type)
        self._check_given_size(height, width)
        total = len(requests) * num_images_per_prompt
        generators = as_generators(generator, total)

        # 2. Encode the contexts, once per prompt; in think mode let the model plan.
        conditioner = Conditioner(self.model, self.vae, self.tokenizer)
        branches = conditioner.encode(
            requests,
            system_prompt=PLANNING_PROMPT if think else None,
            reference_noise=reference_noise,
        )
        thoughts = None
        if think:
            plans = [self._plan(conditioner, b, max_think_tokens, streamer) for b in branches]
            branches, thoughts = [b for b, _ in plans], [text for _, text in plans]
        branches = [b for b in branches for _ in range(num_images_per_prompt)]

        # 3. Denoise together what has one size and one way to be guided.
        kinds = [(self._size(b, height, width), b.size is not None) for b in branches]
        results: dict[int, Any] = {}
        for kind in dict.fromkeys(kinds):
            members = [index for index in range(total) if kinds[index] == kind]
            grid = self._grid(kind[0])
            noise = self._noise(grid, members, generators, latents)
            self.scheduler.set_shift(timestep_shift)
            self.scheduler.set_timesteps(sigmas=sigmas, device=noise.device)
            velocity = GuidedVelocity(
                self.model,
                [branches[index] for index in members],
                grid,
                guidance[kind[1]],
                self.scheduler.sigmas[:-1].tolist(),
                self.step_cache,
            )
            with self.progress_bar(total=num_inference_steps) as bar:
                step_end = after_step(self, bar.update, callback_on_step_end)
                final = denoise(velocity, self.scheduler, noise, step_end)

            # 4. Decode.
            pictures = final if output_type == "latent" else self.decode_latents(final, grid)
            results |= dict(zip(members, to_output(pictures, output_type), strict=True))
        self.maybe_free_model_hooks()
        images = [results[index] for index in range(total)]
        if not return_dict:
            return images, thoughts
        return Echo4oPipelineOutput(images=images, thoughts=thoughts)

    def decode_latents(self, latents_BNP: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latent tokens of rows x columns -> pixels (B, 3, height, width), about [-1, 1]."""
        patch = self.model.config.latent_patch_size
        scaled = unpatchify(latents_BNP, *grid, patch).to(working_device(self.vae), self.vae.dtype)
        latent = scaled / self.vae.config.scaling_factor + self.vae.config.shift_factor
        # One by one: the decoder is the peak of memory, and a batch gains nothing.
        return torch.cat(
            [self.vae.decode(channels_last(one[None])).sample.float() for one in latent]
        )

    def _check_given_size(self, height: int | None, width: int | None) -> None:
        if (height is None) != (width is None):
            raise ValueError(f"give both `height` and `width` or none, got {height} and {width}")
        if height is not None and width is not None:
            config = self.model.config
            check_size(height, width, config.latent_stride, config.max_latent_size)

    def _size(self, branches: Branches, height: int | None, width: int | None) -> tuple[int, int]:
        if height is not None and width is not None:
            return height, width
        if branches.size is not None:
            return branches.size
        side = min(1024, self.model.config.max_latent_size * self.model.config.latent_stride)
        return side, side

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        stride = self.model.config.latent_stride
        return size[0] // stride, size[1] // stride

    def _noise(
        self,
        grid: tuple[int, int],
        members: list[int],
        generators: list[torch.Generator | None],
        latents: Tensor | None,
    ) -> Tensor:
        shape = (grid[0] * grid[1], self.model.config.latent_dim)
        if latents is None:
            chosen = [generators[index] for index in members]
            return initial_noise(shape, chosen, working_device(self.model))
        if latents.shape != (len(generators), *shape):
            raise ValueError(
                f"`latents` must have the shape {(len(generators), *shape)} (pictures, tokens, "
                f"values), got {tuple(latents.shape)}"
            )
        return latents[members].to(working_device(self.model))
