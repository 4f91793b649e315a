"""What the families have in common whose frozen parts are a text model and an encoder of pictures.

Their model is one transformer of a diffusers pipeline; see `family.Family` for what the loop asks.
Every random number is keyed by (seed, row, visit, purpose).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import Parameter

from echo4o.launch import is_first_rank

from . import draws
from .adapters import ADAPTER, adapter_parameters
from .config import TrainConfig
from .data import Rows, UnusableRowError
from .encoded import Example, Examples
from .feed import Loaded
from .loss import Subsets
from .order import Visit
from .parts import LoraSettings
from .streaming import together, write_model

V = TypeVar("V")

_ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
"""Layers that get adapters, as in the released recipe of OmniGen2."""


class Adaptable(Protocol):
    """A transformer of diffusers that takes adapters of peft."""

    def requires_grad_(self, requires_grad: bool = True) -> nn.Module:
        """Whether its weights are trained."""

    def add_adapter(self, adapter_config: LoraConfig, adapter_name: str = ...) -> None:
        """Put an adapter on."""


class Saved(Protocol):
    """A pipeline that can write itself in parts."""

    def save_parts(self, folder: Path) -> None:
        """Write all but the transformer's weights."""

    def save_lora_weights(
        self,
        save_directory: Path,
        transformer_lora_layers: dict[str, Tensor],
        *,
        transformer_lora_adapter_metadata: dict[str, object],
    ) -> None:
        """Write an adapter."""

    def fuse_lora(self) -> None:
        """Merge the adapter into the weights."""

    def unload_lora_weights(self) -> None:
        """Take the adapter off."""


class EncodedFamily(Generic[V]):
    """A transformer in training, with its rows.

    Args:
        model: The transformer.
        pipeline: Whose part it is.
        weights: Folder of the transformer in a saved pipeline, and how its weight files begin.
        group_of: The group (config.GROUPS) of a parameter, by its name.
        rows: The dataset.
        examples: Makes them ready.
        config: Settings of the run.
        device: Where batches go.
    """

    def __init__(
        self,
        model: nn.Module,
        pipeline: Saved,
        weights: tuple[str, str],
        group_of: Callable[[str], str],
        rows: Rows,
        examples: Examples[V],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self._saved, self._weight_files, self._group_of = pipeline, weights, group_of
        self._transformer, self._rows, self._examples = model, rows, examples
        self._config, self._device = config, device
        parameters = [p for name, p in model.named_parameters() if ".lora_" not in name]
        self.weights = sum(p.numel() for p in parameters)
        """Of the transformer, without adapters."""

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

    def save(self, artefact: str, folder: Path) -> None:
        """Write the adapter as diffusers reads it, or the folders of the pipeline.

        A model is the last thing to be written: adapters are merged into it and taken off.
        """
        if artefact == "adapter":
            layers = get_peft_model_state_dict(self._transformer, adapter_name=ADAPTER)
            configs = cast(dict[str, LoraConfig], self._transformer.peft_config)
            metadata = configs[ADAPTER].to_dict()
            self._saved.save_lora_weights(
                folder, layers, transformer_lora_adapter_metadata=metadata
            )
            return
        if self._config.lora is not None:
            self._saved.fuse_lora()
            self._saved.unload_lora_weights()
        dtype = torch.bfloat16 if self._config.save_dtype == "bf16" else torch.float32

        def save_rest() -> None:
            if is_first_rank():
                self._saved.save_parts(folder)

        together(save_rest)
        inner, stem = self._weight_files
        write_model(folder / inner, stem, self._transformer.state_dict(), dtype, one_file=False)

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


def add_adapters(model: Adaptable, settings: LoraSettings, seed: int) -> None:
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
    assert isinstance(model, nn.Module)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
