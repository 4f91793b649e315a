"""What the pipeline writes: answers about pictures, and plans for new ones."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from transformers import Qwen2Tokenizer

from ..calls import as_picture_lists
from .cache import Context
from .conditioning import (
    REASONING_PROMPT,
    Branches,
    Conditioner,
    Part,
    check_requests,
    check_room,
)
from .generation import decode_tokens, extend_context
from .modeling import BagelForUnifiedGeneration
from .processor import text_between

logger = logging.getLogger(__name__)


class WritingMixin(DiffusionPipeline):
    """The pipeline's text side."""

    model: BagelForUnifiedGeneration
    vae: AutoencoderKL
    tokenizer: Qwen2Tokenizer

    @torch.no_grad()
    def understand(
        self,
        images: Image.Image | Sequence[Image.Image] | None,
        question: str,
        *,
        max_new_tokens: int = 512,
        do_sample: bool = False,
        temperature: float = 0.3,
        think: bool = False,
        generator: torch.Generator | None = None,
        streamer: Any = None,
    ) -> str:
        """Answer a question about 0 to 4 pictures.

        Args:
            images: the pictures, in front of the question.
            question: any text.
            max_new_tokens: limit of the answer.
            do_sample: draw tokens instead of taking the most likely one.
            temperature: of the draw.
            think: ask the model to reason first; the reasoning is part of the answer.
            generator: source of the draw.
            streamer: a transformers streamer that gets every token as it is written.

        Raises:
            ValueError: too many pictures, or a limit or temperature that is not positive.
        """
        if max_new_tokens < 1 or temperature <= 0:
            raise ValueError(
                "`max_new_tokens` and `temperature` must be positive, "
                f"got {max_new_tokens} and {temperature}"
            )
        pictures = as_picture_lists(images, 1)[0]
        request: list[Part] = [*pictures, question]
        check_requests([request])
        conditioner = Conditioner(self.model, self.vae, self.tokenizer)
        (branches,) = conditioner.encode(
            [request], system_prompt=REASONING_PROMPT if think else None, with_latents=False
        )
        draw = {"do_sample": do_sample, "temperature": temperature, "generator": generator}
        context, limit = branches.cond, max_new_tokens
        answer = self._write(context, max_new_tokens=limit, streamer=streamer, **draw)
        self.maybe_free_model_hooks()
        return answer

    def _write(self, context: Context, *, streamer: Any = None, **options: Any) -> str:
        config, tokens = self.model.config, []
        check_room(context, options["max_new_tokens"], config)
        for token, _ in decode_tokens(self.model, context, **options):
            if token == config.eos_token_id:
                break
            tokens.append(token)
            if streamer is not None:
                streamer.put(torch.tensor([token]))
        if streamer is not None:
            streamer.end()
        text: str = self.tokenizer.decode([config.bos_token_id, *tokens])
        opening, closing = self.tokenizer.convert_ids_to_tokens(
            [config.bos_token_id, config.eos_token_id]
        )
        return text_between(text, opening, closing)

    def _plan(
        self, conditioner: Conditioner, branches: Branches, max_tokens: int, streamer: Any
    ) -> tuple[Branches, str]:
        """Let the model write a plan and put it behind the full context only."""
        if max_tokens < 1:
            raise ValueError(f"`max_think_tokens` must be at least 1, got {max_tokens}")
        logger.info("planning, at most %d tokens", max_tokens)
        plan = self._write(branches.cond, max_new_tokens=max_tokens, streamer=streamer)
        cond = extend_context(self.model, branches.cond, conditioner.text(plan))
        return branches._replace(cond=cond), plan
