"""The decoder: Qwen2 layers with two experts that share one attention (mixture of transformers).

Texts, markers and vision tokens use the understanding expert, latent tokens the generation expert
(`_moe_gen`). Shape letters: U and G tokens of the two experts, T of either, C hidden size.
"""

from typing import cast

from torch import Tensor, nn
from transformers import Qwen2Config
from transformers.modeling_layers import GradientCheckpointingLayer

from .. import native
from .attention import JointAttention, Pass, chosen
from .functional import Linear, RmsNorm, gated, is_plain, plus


class SwiGlu(nn.Module):
    """The gated feed-forward block of Qwen2."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, tokens_TC: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        gate, up = self.gate_proj, self.up_proj
        if is_plain(gate) and is_plain(up) and native.can_gate(tokens_TC, gate.weight, up.weight):
            inner = native.gated(tokens_TC, gate.weight, up.weight)
        else:
            inner = gated(gate(tokens_TC), up(tokens_TC))
        return cast(Tensor, self.down_proj(inner))


class BagelDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm layer of both experts."""

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = JointAttention(config, layer_idx)
        self.mlp, self.mlp_moe_gen = (SwiGlu(config) for _ in range(2))
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RmsNorm(size, eps=eps)
        self.input_layernorm_moe_gen = RmsNorm(size, eps=eps)
        self.post_attention_layernorm = RmsNorm(size, eps=eps)
        self.post_attention_layernorm_moe_gen = RmsNorm(size, eps=eps)

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Hidden states of both experts in and out; the last layer gives those that are read."""
        with shared.und_gradients():
            und_normed = self.input_layernorm(und_UC)
        runs_gen = shared.runs(gen_GC)
        gen_normed = self.input_layernorm_moe_gen(gen_GC) if runs_gen else gen_GC
        und_added, gen_added = self.self_attn(und_normed, gen_normed, shared)
        is_last = self.self_attn.is_last
        if is_last:
            und_UC, gen_GC = chosen(und_UC, shared.und_read), chosen(gen_GC, shared.gen_read)
        if shared.wants_und(is_last):
            with shared.und_gradients():
                und_UC = plus(und_UC, und_added)
                und_UC = plus(und_UC, self.mlp(self.post_attention_layernorm(und_UC)))
        if shared.wants_gen(is_last) and runs_gen:
            gen_GC = plus(gen_GC, gen_added)
            normed = self.post_attention_layernorm_moe_gen(gen_GC)
            gen_GC = plus(gen_GC, self.mlp_moe_gen(normed))
        return und_UC, gen_GC


class BagelDecoder(nn.Module):
    """Token embedding, layers and one final norm per expert."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            BagelDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_moe_gen = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, und_UC: Tensor, gen_GC: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Embedded tokens of both experts in, out the final-normed states that somebody reads.

        Those of an expert that nobody reads come back unfinished.
        """
        for layer in self.layers:
            und_UC, gen_GC = layer(und_UC, gen_GC, shared)
        if shared.und_read is not False:
            with shared.und_gradients():
                und_UC = self.norm(und_UC)
        if shared.gen_read is not False:
            gen_GC = self.norm_moe_gen(gen_GC)
        return und_UC, gen_GC


class BagelLanguageModel(nn.Module):
    """The decoder with its output layer for text."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = BagelDecoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
