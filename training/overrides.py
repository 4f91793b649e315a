"""`--set key=value`: changes single fields of a configuration, by their declared types."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping

from echo4o.errors import Echo4oError

from .config import TrainConfig
from .parts import (
    Blip3oSettings,
    LoraSettings,
    OmniGen2Settings,
    TinyBlip3o,
    TinyOmniGen2,
    TinySizes,
)

_NESTED: dict[
    str,
    type[TinySizes | TinyOmniGen2 | TinyBlip3o | OmniGen2Settings | Blip3oSettings | LoraSettings],
] = {
    "tiny": TinySizes,
    "omnigen2": OmniGen2Settings,
    "blip3o": Blip3oSettings,
    "lora": LoraSettings,
}
"""Classes of fields that are settings themselves, where the recipe has none in them."""


class SettingError(Echo4oError):
    """A `--set` names an unknown field or has a value of another type."""


def override(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Apply `key=value` settings; nested fields are dotted (`tiny.layers=6`).

    Values: `none`, `true`/`false`, numbers, text; lists comma-separated or as JSON; a mixture as
    `config:weight,config:weight`.

    Raises:
        SettingError: unknown key (the nearest name is given) or a value of the wrong type.
        ValueError: the value is refused by the configuration.
    """
    changes: dict[str, object] = {}
    nested: dict[str, dict[str, object]] = {}
    known = _fields(TrainConfig)
    for group, default in _NESTED.items():
        own = getattr(config, group)
        cls = default if own is None else type(own)
        known |= {f"{group}.{name}": kind for name, kind in _fields(cls).items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SettingError(f"--set takes key=value, got {setting!r}")
        if key not in known:
            raise SettingError(_unknown(key, known))
        group, _, name = key.rpartition(".")
        target = nested.setdefault(group, {}) if group else changes
        target[name] = _parse(key, text.strip(), known[key])
    if changes.get("base_model") is not None:
        changes.setdefault("tiny", None)
    for group, parts in nested.items():
        changes[group] = _changed(config, group, parts)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _changed(config: TrainConfig, group: str, parts: dict[str, object]) -> object:
    """The nested settings with some of them changed; LoRA is switched on by its first setting."""
    before = getattr(config, group)
    if before is not None:
        return dataclasses.replace(before, **parts)
    if group == "tiny":
        raise SettingError("tiny.* has no meaning here: this recipe starts from `base_model`")
    if group in ("omnigen2", "blip3o"):
        raise SettingError(f"{group}.* has no meaning here: this recipe trains another family")
    return _NESTED[group](**parts)  # type: ignore[arg-type]


def _fields(cls: type) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _unknown(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"there is no setting {key!r}; the nearest one is {near[0]!r}"


def _parse(key: str, text: str, kind: object) -> object:
    """Read `text` as the annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if text.lower() == "none" and type(None) in arguments:
            return None
        return _parse(key, text, next(a for a in arguments if a is not type(None)))
    if origin is typing.Literal:
        return _choice(key, text, arguments)
    if origin is tuple:
        return _list(key, text, arguments)
    if kind is bool:
        return _choice(key, text.lower(), ("true", "false")) == "true"
    if kind is str:
        return text
    if dataclasses.is_dataclass(kind):
        raise SettingError(f"`{key}` has parts: set {key}.NAME=VALUE, got {text!r}")
    try:
        return typing.cast(type, kind)(text)
    except (TypeError, ValueError):
        name = typing.cast(type, kind).__name__
        raise SettingError(f"`{key}` takes {name} values, got {text!r}") from None


def _choice(key: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise SettingError(f"`{key}` must be one of {', '.join(allowed)}; got {text!r}")
    return text


def _list(key: str, text: str, kinds: tuple[object, ...]) -> tuple[object, ...]:
    if typing.get_origin(kinds[0]) is tuple:
        return tuple(_pair(key, part) for part in text.split(",") if part)
    parts = _json_list(key, text) if text.startswith("[") else [p for p in text.split(",") if p]
    if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
        raise SettingError(f"`{key}` takes {len(kinds)} values, got {text!r}")
    return tuple(_parse(key, str(part).strip(), kinds[0]) for part in parts)


def _json_list(key: str, text: str) -> list[object]:
    try:
        return list(json.loads(text))
    except ValueError as error:
        raise SettingError(f"`{key}` is not a JSON list ({error}): {text!r}") from None


def _pair(key: str, text: str) -> tuple[str, float]:
    name, _, weight = text.partition(":")
    return name.strip(), float(typing.cast(float, _parse(key, weight or "1", float)))
