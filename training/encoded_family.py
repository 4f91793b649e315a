"""What the families have in common whose frozen parts are a text model and an encoder of pictures.

Their model is one transformer of a diffusers pipeline; see `family.Family` for what the loop asks.
Every random number is keyed by (seed, row, visit, purpose).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import Parameter

from echo4o.launch import is_first_rank
from echo4o.models.calls import Echo4oPipelineOutput
from echo4o.models.parts import MODEL_FOLDER, WEIGHTS, PartsPipeline

from . import draws, sharding
from .adapters import ADAPTER, adapter_parameters
from .config import TrainConfig
from .data import Rows, UnusableRowError
from .encoded import Codec, Example, Examples
from .feed import Loaded
from .loss import Subsets
from .order import Visit
from .parts import LoraSettings
from .processes import computes_in_bf16
from .store import open_store
from .streaming import together, write_model

V = TypeVar("V")

_ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
"""Layers that get adapters, as in the released recipe of OmniGen2."""


class EncodedFamily(ABC, Generic[V]):
    """A transformer in training, with its rows.

    Args:
        pipeline: Whose part it is.
        group_of: The group (config.GROUPS) of a parameter, by its name.
        rows: The dataset.
        codec: Encodes their pictures.
        name: Of what it encodes with, to find what lies on disk.
        config: Settings of the run.
        device: Where batches go.
    """

    beside: ClassVar[tuple[str, ...]] = (
        *("norm1.linear.", "norm_out.linear_1.", "timestep_embedder."),
        "latent_queries",
    )
    """Parts of the names of weights that a token does not pass, but its sample once, or others."""

    def __init__(
        self,
        pipeline: PartsPipeline,
        group_of: Callable[[str], str],
        rows: Rows,
        codec: Codec[V],
        name: Callable[[], str],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self._pipeline, self._group_of, self._rows = pipeline, group_of, rows
        self._transformer = cast(nn.Module, pipeline.transformer)
        self._config, self._device = config, device
        self._examples = Examples(
            rows,
            codec,
            memory=config.latent_cache_mb * 2**20,
            shelf=open_store(config, name),
        )
        self.weights = sum(
            parameter.numel()
            for name, parameter in self._transformer.named_parameters()
            if not any(part in name for part in (".lora_", *self.beside))
        )
        """Of the transformer that every token passes, without adapters."""

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the dataset's subsets."""
        return self._rows.subsets

    def prepare(self) -> list[int]:
        """Encode the pictures once, if they fit into memory; returns the usable rows."""
        return self._examples.prepare()

    @property
    def all_ready(self) -> bool:
        """Whether all rows are in memory."""
        return self._examples.all_ready

    def length(self, row: int) -> int | None:
        """Tokens of a row with nothing dropped, None when the row cannot be used."""
        try:
            sizes = self._examples.sizes(row)
            text = self._rows[row].instruction
        except UnusableRowError as error:
            self._rows.skip(row, str(error))
            return None
        return self.tokens_of(text, sizes)

    @abstractmethod
    def tokens_of(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of a text with pictures of these widths and heights."""

    def load(self, visit: Visit) -> Loaded[Example]:
        """Read and resize, in any process."""
        try:
            return Loaded(visit, self._examples.load(visit.row), "")
        except UnusableRowError as error:
            return Loaded(visit, None, str(error))

    def usable(self, loaded: Sequence[Loaded[Example]]) -> list[tuple[Visit, Example]]:
        """The rows that can be used; the others are counted.

        Raises:
            Echo4oError: no row of the dataset can be used.
        """
        found = []
        for visit, example, reason in loaded:
            if example is None:
                self._rows.skip(visit.row, reason)
            else:
                found.append((visit, example))
        if not found:
            self._rows.refuse_if_none(len(self._rows) - self._rows.skipped.total())
        return found

    def groups(self) -> Mapping[str, Mapping[str, Parameter]]:
        """Parameters by group (config.GROUPS); the base of adapters in none."""
        model = self._transformer
        lora = self._config.lora is not None
        named = adapter_parameters(model) if lora else dict(model.named_parameters())
        found: dict[str, dict[str, Parameter]] = {}
        for name, parameter in named.items():
            found.setdefault(self._group_of(name), {})[name] = parameter
        return found

    def drawn(self, prompts: Sequence[str], **arguments: int) -> list[Image.Image]:
        """Pictures of prompts with fixed noise; `arguments` are the pipeline's own."""
        drawn = self._pipeline(
            list(prompts),
            num_inference_steps=self._config.sample_steps,
            guidance_scale=self._config.sample_guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
            **arguments,
        )
        assert isinstance(drawn, Echo4oPipelineOutput)
        return cast(list[Image.Image], drawn.images)

    def save(self, artefact: str, folder: Path) -> None:
        """Write the adapter as diffusers reads it, or the folders of the pipeline.

        A model is the last thing to be written: adapters are merged into it and taken off.
        """
        if artefact == "adapter":
            layers = get_peft_model_state_dict(self._transformer, adapter_name=ADAPTER)
            configs = cast(dict[str, LoraConfig], self._transformer.peft_config)
            metadata = configs[ADAPTER].to_dict()
            self._pipeline.save_lora_weights(
                folder, layers, transformer_lora_adapter_metadata=metadata
            )
            return
        if self._config.lora is not None:
            self._pipeline.fuse_lora()
            self._pipeline.unload_lora_weights()
        dtype = torch.bfloat16 if self._config.save_dtype == "bf16" else torch.float32

        def save_rest() -> None:
            if is_first_rank():
                self._pipeline.save_parts(folder)

        together(save_rest)
        inner, stem = folder / MODEL_FOLDER, WEIGHTS[MODEL_FOLDER]
        write_model(inner, stem, self._transformer.state_dict(), dtype, one_file=False)

    def key(self, visit: Visit, purpose: str) -> tuple[int | str, ...]:
        """Names a random draw."""
        return (self._config.seed, visit.row, visit.visit, purpose)

    def falls(self, visit: Visit, purpose: str, probability: float) -> bool:
        """Whether something of that probability happens at this visit."""
        return draws.uniform(*self.key(visit, purpose)) < probability

    def noise(self, visit: Visit, shape: tuple[int, ...], purpose: str = "noise") -> Tensor:
        """Standard normal numbers of this visit."""
        found = draws.normals(shape, *self.key(visit, purpose))
        return torch.from_numpy(found).to(self._device)

    def subsets_of(self, visits: Sequence[Visit], tokens: Sequence[int]) -> Subsets:
        """Places of the subsets, for so many tokens of each visit."""
        places = torch.tensor([self._rows.subset_of(visit.row) for visit in visits])
        none = torch.empty(0, dtype=torch.long, device=self._device)
        mse = places.repeat_interleave(torch.tensor(tokens)).to(self._device)
        return Subsets(count=len(self.subsets), mse=mse, ce=none)


def frozen_dtype(config: TrainConfig) -> torch.dtype:
    """In which frozen parts are kept and compute."""
    return torch.bfloat16 if computes_in_bf16(config) else torch.float32


def make_ready(
    pipeline: PartsPipeline,
    config: TrainConfig,
    *,
    device: torch.device,
    mesh: DeviceMesh | None,
    apart: Sequence[str] = (),
) -> None:
    """Freeze all but the transformer, or adapters on it; share it, and put all on the device.

    Args:
        pipeline: As loaded.
        config: Settings of the run.
        device: Where it computes.
        mesh: Processes that share the transformer; None: each holds all of it.
        apart: Names of its parameters that are used outside of its forward (`sharding.shard`).
    """
    pipeline.set_progress_bar_config(disable=True)
    model, mllm = pipeline.transformer, pipeline.mllm
    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and part is not model:
            part.requires_grad_(False)
    mllm.to(frozen_dtype(config))
    if config.lora is None:
        model.float()
    else:
        model.to(frozen_dtype(config))
        add_adapters(model, config.lora, config.seed)
    if mesh is not None:
        sharding.shard(
            model,
            model.layers,
            mesh,
            bf16=computes_in_bf16(config),
            apart=frozenset(model.get_parameter(name) for name in apart),
        )
    pipeline.to(device)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()


def add_adapters(model: Any, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and put one adapter, in float32, on all its attention layers."""
    model.requires_grad_(False)
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,
        target_modules=_ADAPTED,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, ADAPTER)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
