"""The pipeline's LoRA methods, named as in diffusers, whose mixin does what needs no checking."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils.peft_utils import get_adapter_name, unscale_lora_layers

from ..checkpoint import CheckpointError
from . import adapter as adapters
from .modeling import BagelForUnifiedGeneration


class LoraMixin(LoraBaseMixin):
    """Loads, mixes, fuses and saves LoRA adapters of the main model.

    `set_adapters(names, weights)`, `disable_lora`, `enable_lora`, `get_active_adapters` and
    `get_list_adapters` are those of diffusers.
    """

    _lora_loadable_modules = ["model"]
    model: BagelForUnifiedGeneration
    source_id: str | None
    _fused_scale = 1.0

    def load_lora_weights(
        self,
        name: str | Path,
        adapter_name: str | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        any_base: bool = False,
    ) -> adapters.Adapter:
        """Load an adapter that PEFT, our training or `save_lora_weights` wrote.

        It becomes the active one; `set_adapters` mixes several.

        Args:
            name: folder or Hub id.
            adapter_name: what to call it here; default "default_0" and so on.
            revision: branch, tag or commit of the Hub repository.
            cache_dir: where downloads are kept.
            any_base: also take an adapter whose configuration names another base model.

        Raises:
            CheckpointError: there is no adapter, it belongs to another base model, or it does not
                fit; the model is then as it was.
            ValueError: the name is taken or no name.
        """
        adapter = adapters.read_adapter(name, revision=revision, cache_dir=cache_dir)
        chosen = get_adapter_name(self.model) if adapter_name is None else adapter_name
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", chosen):
            raise ValueError(
                f"`adapter_name` must be letters, digits, _ and -, at most 64, got {chosen!r}"
            )
        if chosen in self._adapter_names():
            raise ValueError(f"there is an adapter {chosen!r} already; choose another name")
        if not any_base and not is_same_base(adapter.base, self.source_id):
            raise CheckpointError(
                f"the adapter {name} was trained on {adapter.base}, this pipeline is "
                f"{self.source_id}; load that model, or say any_base=True (--any-base) if you "
                "know that it fits"
            )
        with self._offloading_paused():
            adapters.load_adapter(self.model, adapter, chosen)
        return adapter

    def save_lora_weights(self, folder: str | Path, adapter_name: str | None = None) -> None:
        """Write an adapter as PEFT does, without its weight; default: the only one.

        Raises:
            ValueError: no adapter of this name, or several and none was named.
        """
        names = [adapter_name] if adapter_name is not None else self._adapter_names()
        if len(names) != 1 or names[0] not in self._adapter_names():
            raise ValueError(self._choose(names))
        base = self.source_id
        if base is not None and Path(base).is_dir():
            base = Path(base).name
        adapters.save_adapter(self.model, Path(folder), names[0], base=base)

    def fuse_lora(
        self,
        components: Sequence[str] = ("model",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the active adapters, or those named, to the weights: no cost per step any more.

        Raises:
            ValueError: there is no such adapter, or no adapter at all.
        """
        names = self.get_active_adapters() if adapter_names is None else list(adapter_names)
        if not names or set(names) - set(self._adapter_names()):
            raise ValueError(self._choose(names))
        self._fused_scale = lora_scale
        super().fuse_lora(list(components), lora_scale, safe_fusing, names, **kwargs)

    def unfuse_lora(self, components: Sequence[str] = ("model",), **kwargs: Any) -> None:
        """Take fused adapters out again; they stay loaded, with their weights."""
        super().unfuse_lora(list(components), **kwargs)
        # diffusers scales the adapters for good when it fuses them with a scale.
        unscale_lora_layers(self.model, self._fused_scale)
        self._fused_scale = 1.0

    def unload_lora_weights(self) -> None:
        """Take all adapters off; what was fused stays in the weights."""
        with self._offloading_paused():
            super().unload_lora_weights()

    def check_no_adapters(self) -> None:
        """Refuse to save a model whose layers are wrapped.

        Raises:
            ValueError: an adapter is loaded.
        """
        if self._adapter_names():
            raise ValueError(
                f"the adapters {', '.join(self._adapter_names())} are loaded: call fuse_lora() and "
                "unload_lora_weights() to save one model, or save_lora_weights() for the adapter"
            )

    @contextmanager
    def _offloading_paused(self) -> Iterator[None]:
        """Hooks that move layers between devices must know which layers there are."""
        by_model, by_layer, by_group = self._optionally_disable_offloading(self)
        yield
        if by_model:
            self.enable_model_cpu_offload()
        elif by_layer:
            self.enable_sequential_cpu_offload()
        elif by_group:
            _maybe_remove_and_reapply_group_offloading(self.model)

    def _adapter_names(self) -> list[str]:
        # Not get_list_adapters: saving a model must work without PEFT.
        return list(getattr(self.model, "peft_config", {}))

    def _choose(self, names: Sequence[str]) -> str:
        loaded = ", ".join(self._adapter_names()) or "none; call load_lora_weights first"
        return f"`adapter_name` must be one of those loaded ({loaded}), got {', '.join(names)}"


def is_same_base(named: str, source: str | None) -> bool:
    """Whether the base an adapter names can be this model; only two known names can differ.

    A folder on some machine says nothing, a Hub id must be ours, or the name of our folder.
    """
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", named) and not Path(named).is_dir()
    if not is_id or source is None:
        return True
    if not Path(source).is_dir():
        return named.lower() == source.lower()
    parts = {part.lower() for part in Path(source).resolve().parts}
    return Path(source).resolve().name.lower() == named.split("/")[1].lower() or (
        f"models--{named.replace('/', '--')}".lower() in parts
    )
