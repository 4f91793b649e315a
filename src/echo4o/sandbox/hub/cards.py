"""The YAML front matter of a README.md: parsed and checked roughly as the real Hub does it."""

import json
import re
from dataclasses import dataclass, field

import yaml

_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MOST_ALIASES = 10
_DEEPEST = 100
_COLOURS = _words("red yellow green blue indigo purple pink gray")
_SDKS = _words("gradio docker static")
_REPO_ID = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_TEXTS = _words(
    "pipeline_tag library_name license_name license_link license_details pretty_name title emoji "
    "app_file short_description"
)
_TEXT_LISTS = _words(
    "license tags language datasets models metrics base_model task_categories task_ids "
    "size_categories annotations_creators source_datasets multilinguality language_creators"
)
_LICENSES = _words(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause "
    "bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research "
    "intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 "
    "openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license "
    "fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma "
    "grok2-community unknown other"
)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, as the Hub does and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.YAMLError(f"a key must be a plain value, at line {_line(key_node)}")
            if key in seen and key != "<<":
                raise yaml.YAMLError(f"duplicated mapping key {key!r} at line {_line(key_node)}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


@dataclass(frozen=True, slots=True)
class Card:
    """What the front matter says, and what is wrong with it."""

    data: dict[str, object] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_card(text: str, kind: str) -> Card:
    """Parse and check a README.md of a `model`, `dataset` or `space`."""
    match = _FRONT_MATTER.match(text)
    if match is None or not match[1].strip():
        if text.lstrip("\ufeff \n").startswith("---\n") and match is None:
            return Card(errors=("The metadata block starts with --- and never ends.",))
        return Card(warnings=("empty or missing yaml metadata in repo card",))
    try:
        _refuse_bombs(match[1])
        raw = yaml.load(match[1], _Loader)
        plain = json.loads(json.dumps(raw, default=str, allow_nan=False))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return Card(errors=("Invalid YAML: " + " ".join(str(error).split()),))
    if not isinstance(plain, dict):
        return Card(errors=(f"The metadata must be a mapping, found {type(raw).__name__}.",))
    data: dict[str, object] = plain
    errors = _check(data)
    errors += _check_space(data) if kind == "space" else []
    errors += _check_dataset(data) if kind == "dataset" else []
    errors += _check_model(data) if kind == "model" else []
    return Card(data, tuple(errors))


def _refuse_bombs(text: str) -> None:
    """A few aliases are harmless; many, nested, unfold into gigabytes, and depth takes minutes."""
    aliases = depth = 0
    for event in yaml.parse(text):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if aliases > _MOST_ALIASES:
            raise yaml.YAMLError(f"more than {_MOST_ALIASES} aliases")
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"more than {_DEEPEST} levels")


def _texts(value: object) -> list[str] | None:
    values: list[object] = value if isinstance(value, list) else [value]
    texts = [item for item in values if isinstance(item, str)]
    return texts if len(texts) == len(values) else None


def _check(data: dict[str, object]) -> list[str]:
    errors = [f'"{key}" must be a string' for key in _TEXTS if not _is_text(data.get(key, ""))]
    for key in _TEXT_LISTS:
        values = _texts(data.get(key, []))
        if values is None:
            errors.append(f'"{key}" must be a string or a list of strings')
        elif key == "license":
            errors += [f'"license" {one!r} is not known' for one in values if one not in _LICENSES]
        elif key in ("datasets", "models", "base_model"):
            errors += [
                f'"{key}" has {one!r}, which is not a repo id'
                for one in values
                if not _REPO_ID.fullmatch(one)
            ]
    return errors


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _check_space(data: dict[str, object]) -> list[str]:
    errors = []
    if data.get("sdk") not in _SDKS:
        errors.append(f'"sdk" must be one of {_SDKS}, found {data.get("sdk")!r}')
    for key in ("colorFrom", "colorTo"):
        if key in data and data[key] not in _COLOURS:
            errors.append(f'"{key}" must be one of {_COLOURS}, found {data[key]!r}')
    short = data.get("short_description")
    if isinstance(short, str) and len(short) > 60:
        errors.append(f'"short_description" must have at most 60 characters, has {len(short)}')
    if not isinstance(data.get("sdk_version", ""), str):
        errors.append('"sdk_version" must be a string; put it in quotes')
    return errors


def _check_dataset(data: dict[str, object]) -> list[str]:
    errors = []
    configs = data.get("configs", [])
    if not isinstance(configs, list):
        return ['"configs" must be a list']
    names = []
    for config in configs:
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            errors.append('every entry of "configs" must have a "config_name"')
        else:
            names.append(config["config_name"])
    twice = sorted({name for name in names if names.count(name) > 1})
    errors += [f'"configs" has {name!r} twice' for name in twice]
    infos = data.get("dataset_info", {})
    infos = infos if isinstance(infos, list) else [infos]
    if not all(isinstance(info, dict) for info in infos):
        errors.append('"dataset_info" must be a mapping or a list of mappings')
    return errors


def _check_model(data: dict[str, object]) -> list[str]:
    index = data.get("model-index", [])
    if not isinstance(index, list):
        return ['"model-index" must be a list']
    for model in index:
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            return ['every entry of "model-index" must have a "name"']
        if not isinstance(model.get("results", []), list):
            return ['"results" in "model-index" must be a list']
    return []


def tags_of(data: dict[str, object], text: str) -> list[str]:
    """The tags that the Hub derives from a card."""
    tags = list(_texts(data.get("tags") or []) or [])
    for key in ("library_name", "pipeline_tag"):
        if isinstance(data.get(key), str):
            tags.append(str(data[key]))
    prefixes = {"license": "license", "datasets": "dataset", "base_model": "base_model"}
    prefixes |= {"language": "language", "size_categories": "size_categories"}
    prefixes |= {"task_categories": "task_categories"}
    for key, prefix in prefixes.items():
        tags += [f"{prefix}:{value}" for value in _texts(data.get(key) or []) or []]
    tags += [f"arxiv:{paper}" for paper in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", text)]
    return list(dict.fromkeys(tags))
