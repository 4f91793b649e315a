"""BAGEL once more, straight from the specification's words: slow, dense, one sample at a time.

Nothing of ours is used but the names and values of the parameters, so that whatever is packed,
shared, skipped or cached there is held against something that does none of it.

A sample is a list of (kind, content): "text" and "loss" (token ids, the latter supervised), "open"
(a text that is still being written), "vit" (pixels), "vae" (a clean latent), "target" (one to be
noised), "gone" (a dropped picture, which still takes a position).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class PlainBagel:
    """A model's parameters, with the forward written out."""

    def __init__(self, model):
        self.state, self.config = model.state_dict(keep_vars=True), model.config
        text = self.config.text_config
        self.layers, self.eps = text.num_hidden_layers, text.rms_norm_eps
        self.heads, self.kv_heads = text.num_attention_heads, text.num_key_value_heads
        self.head = text.hidden_size // self.heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        found = x @ self.state[f"{name}.weight"].T
        return found + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else found

    def rms(self, x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * scale * self.state[f"{name}.weight"]

    def time(self, t: float) -> Tensor:
        angles = torch.tensor([t * math.exp(-math.log(10000) * i / 128) for i in range(128)])
        sinusoid = torch.cat([angles.cos(), angles.sin()])
        return self.linear(
            F.silu(self.linear(sinusoid, "time_embedder.mlp.0")), "time_embedder.mlp.2"
        )

    def patches(self, picture: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Rows of patches, channel fastest, and their places in a square table."""
        rows, columns = picture.shape[1] // size, picture.shape[2] // size
        cut, places = [], []
        for i in range(rows):
            for j in range(columns):
                part = picture[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
                cut.append(part.permute(1, 2, 0).flatten())
                at = (
                    (i * side // rows, j * side // columns)
                    if self.config.interpolate_pos
                    else (i, j)
                )
                places.append(at[0] * side + at[1])
        return torch.stack(cut), torch.tensor(places)

    def seen(self, pixels: Tensor) -> Tensor:
        """The vision tower, the connector and their positions."""
        config, side = self.config.vision_config, self.config.vit_max_num_patch_per_side
        patches, places = self.patches(pixels, config.patch_size, side)
        top = "vit_model.vision_model."
        x = self.linear(patches, f"{top}embeddings.patch_embedding")
        x = x + self.state[f"{top}embeddings.position_embedding.weight"][places]
        heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads

        def norm(x: Tensor, name: str) -> Tensor:
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            return F.layer_norm(x, (len(weight),), weight, bias, config.layer_norm_eps)

        for layer in range(config.num_hidden_layers):
            own = f"{top}encoder.layers.{layer}."
            y = norm(x, f"{own}layer_norm1")
            q, k, v = (
                self.linear(y, f"{own}self_attn.{n}_proj").view(-1, heads, size) for n in "qkv"
            )
            weights = (torch.einsum("qhd,khd->hqk", q, k) * size**-0.5).softmax(-1)
            mixed = torch.einsum("hqk,khd->qhd", weights, v).flatten(1)
            x = x + self.linear(mixed, f"{own}self_attn.out_proj")
            inner = self.linear(norm(x, f"{own}layer_norm2"), f"{own}mlp.fc1")
            x = x + self.linear(F.gelu(inner, approximate="tanh"), f"{own}mlp.fc2")
        x = norm(x, f"{top}post_layernorm")
        x = self.linear(
            F.gelu(self.linear(x, "connector.fc1"), approximate="tanh"), "connector.fc2"
        )
        return x + self.state["vit_pos_embed.pos_embed"][places]

    def forward(self, sample, times=(), noises=()):
        """Final states (T, C), and what is learned at each: None, a token, or a velocity."""
        config, words = self.config, self.state["language_model.model.embed_tokens.weight"]
        marks = words[config.vision_start_token_id], words[config.vision_end_token_id]
        x, gen, where, part, mode, learned = [], [], [], [], [], []
        position, targets = 0, iter(zip(times, noises, strict=True))
        for number, (kind, content) in enumerate(sample):
            if kind == "gone":
                position += 1
                continue
            if kind in ("text", "loss", "open"):
                ids = [config.bos_token_id, *content, *[config.eos_token_id] * (kind != "open")]
                x += [words[token] for token in ids]
                learned += [*ids[1:], None] if kind == "loss" else [None] * len(ids)
                where += range(position, position + len(ids))
                gen, mode = gen + [False] * len(ids), mode + ["causal"] * len(ids)
                part, position = part + [number] * len(ids), position + len(ids)
                continue
            if kind == "vit":
                tokens, about = self.seen(content), None
            else:
                size, side = config.latent_patch_size, config.max_latent_size
                clean, places = self.patches(content, size, side)
                time, noise = next(targets) if kind == "target" else (0.0, clean)
                about = list(noise - clean) if kind == "target" else None
                tokens = self.linear((1 - time) * clean + time * noise, "vae2llm")
                tokens = tokens + self.time(float(time))
                tokens = tokens + self.state["latent_pos_embed.pos_embed"][places]
            count = len(tokens)
            x += [marks[0], *tokens, marks[1]]
            gen += [False, *[kind != "vit"] * count, False]
            learned += [None, *(about or [None] * count), None]
            where, part = where + [position] * (count + 2), part + [number] * (count + 2)
            mode += ["noise" if kind == "target" else "full"] * (count + 2)
            position += kind != "target"
        allowed = torch.tensor(
            [
                [
                    (mode[k] != "noise" or part[k] == part[q])
                    and (k <= q or (part[k] == part[q] and mode[k] != "causal"))
                    for k in range(len(x))
                ]
                for q in range(len(x))
            ]
        )
        return self.decode(torch.stack(x), torch.tensor(gen), torch.tensor(where), allowed), learned

    def decode(self, x: Tensor, gen: Tensor, where: Tensor, allowed: Tensor) -> Tensor:
        """All layers: both experts on every token, then each token's own is taken."""
        base = self.config.text_config.rope_parameters["rope_theta"]
        turns = torch.tensor([base ** (-2 * i / self.head) for i in range(self.head // 2)])
        angles = (where.float()[:, None] * turns)[:, None]

        def turned(v: Tensor) -> Tensor:
            a, b = v.chunk(2, dim=-1)
            cos, sin = angles.cos(), angles.sin()
            return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

        def own(call, x: Tensor, name: str) -> Tensor:
            one, other = call(x, name), call(x, f"{name}_moe_gen")
            return torch.where(gen.view(-1, *[1] * (one.ndim - 1)), other, one)

        def mlp(x: Tensor, name: str) -> Tensor:
            gate = F.silu(self.linear(x, f"{name}.gate_proj"))
            return self.linear(gate * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")

        for layer in range(self.layers):
            at = f"language_model.model.layers.{layer}."
            y = own(self.rms, x, f"{at}input_layernorm")
            q, k, v = (
                own(self.linear, y, f"{at}self_attn.{n}_proj").view(len(x), -1, self.head)
                for n in "qkv"
            )
            q, k = (
                turned(own(self.rms, part, f"{at}self_attn.{n}_norm"))
                for n, part in (("q", q), ("k", k))
            )
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
            scores = torch.einsum("qhd,khd->hqk", q, k) * self.head**-0.5
            weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
            mixed = torch.einsum("hqk,khd->qhd", weights, v).flatten(1)
            x = x + own(self.linear, mixed, f"{at}self_attn.o_proj")
            x = x + own(mlp, own(self.rms, x, f"{at}post_attention_layernorm"), f"{at}mlp")
        return own(self.rms, x, "language_model.model.norm")

    def errors(self, sample, times, noises) -> tuple[list[Tensor], list[Tensor]]:
        """Squared velocity errors (P,) of the noised tokens, cross-entropies of the words."""
        states, learned = self.forward(sample, times, noises)
        mse, ce = [], []
        for state, wanted in zip(states, learned, strict=True):
            if isinstance(wanted, Tensor):
                mse.append((self.linear(state, "llm2vae") - wanted).square())
            elif wanted is not None:
                logits = self.linear(state, "language_model.lm_head")
                ce.append(F.cross_entropy(logits, torch.tensor(wanted)))
        return mse, ce

    def velocity(self, context, x: Tensor, time: float, grid: tuple[int, int]) -> Tensor:
        """Of noisy tokens (N, P) behind a context."""
        size, channels = self.config.latent_patch_size, self.config.latent_channels
        cells = x.view(*grid, size, size, channels).permute(4, 0, 2, 1, 3)
        latent = cells.reshape(channels, grid[0] * size, grid[1] * size)
        # With itself as its noise, a latent is at every time what it is.
        states, learned = self.forward([*context, ("target", latent)], [time], [x])
        rows = [place for place, wanted in enumerate(learned) if wanted is not None]
        return self.linear(states[rows], "llm2vae")

    def picture(self, contexts, x: Tensor, grid: tuple[int, int], steps: int, **how) -> Tensor:
        """Euler steps with guidance; contexts: the full one, without the text, without pictures."""
        shift, (low, high), renorm = how["shift"], how["interval"], how["renorm"]
        even = torch.linspace(1, 0, steps + 1)
        times = shift * even / (1 + (shift - 1) * even)

        def limited(u: Tensor, like: Tensor, *axes: int) -> Tensor:
            lengths = like.norm(dim=axes, keepdim=True) / (u.norm(dim=axes, keepdim=True) + 1e-8)
            return u * lengths.clamp(how["least"], 1.0)

        for time, after in zip(times, times[1:], strict=False):
            full = v = self.velocity(contexts[0], x, float(time), grid)
            if how["text"] > 1 and time > low and time <= high:
                without = self.velocity(contexts[1], x, float(time), grid)
                v = without + how["text"] * (full - without)
                v = limited(v, full, -1) if renorm == "text_channel" else v
                if how["image"] > 1:
                    blind = self.velocity(contexts[2], x, float(time), grid)
                    v = blind + how["image"] * (v - blind)
                if renorm in ("global", "channel"):
                    v = limited(v, full, *((0, 1) if renorm == "global" else (1,)))
            x = x - v * (time - after)
        return x
