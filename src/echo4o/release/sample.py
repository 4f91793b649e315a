"""What the rehearsal releases: names, the RELEASE.toml of a sandbox, a key of its own."""

import importlib.util
from pathlib import Path

from ..errors import Echo4oError
from ..records import write_atomic

ORG = "echo4o-sandbox"
DATASET = f"{ORG}/echo-4o-image"
MODEL = f"{ORG}/echo-4o-tiny"
TWIN = f"{ORG}/echo-4o-tiny-bagel"
RESULTS = f"{ORG}/echo-4o-results"
ITEMS = f"{ORG}/geneval-plus-plus-kit"
SPACE = f"{ORG}/echo-4o"
CANDIDATE, TAG = "v1-rc", "v1"
"""What is trained and judged with, and what is released when all is known."""


def release_plan(dataset: Path, out: Path, *, items: int, metrics: bool) -> str:
    """The RELEASE.toml of a rehearsal.

    Args:
        dataset: The built dataset.
        out: Folder of the rehearsal, in which the file lies.
        items: Benchmark items that were judged; the Hub takes the scores of a whole run only.
        metrics: Whether the metric Spaces and the authors' layout are part of it.
    """
    is_whole = items >= sum(1 for _ in kit_items().open())
    parts = [
        f'[release]\nname = "echo-4o-tiny"\nversion = "{TAG}"\n',
        f'[dataset]\nfolder = "{dataset.relative_to(out)}"\nrepo = "{DATASET}"\n',
        f'[results]\nrepo = "{RESULTS}"\nruns = ["eval/untrained", "eval/trained"]\n',
        f'[model]\nfolder = "training"\nrepo = "{MODEL}"\nruns = ["eval/trained"]\n',
    ]
    if is_whole:
        parts[-1] += f'items = "{ITEMS}"\n'
    if metrics:
        parts[-1] += f'authors_layout = "{TWIN}"\n'
    parts.append(_CARD)
    if is_whole:
        parts.append(f'[[items]]\ntask = "geneval_plus_plus"\nrepo = "{ITEMS}"\n')
    if metrics:
        parts.append(f'[metrics]\norganisation = "{ORG}"\n')
    parts.append(f'[[spaces]]\nname = "generate"\nrepo = "{SPACE}"\n')
    parts.append(f'[collection]\nowner = "{ORG}"\ntitle = "Echo-4o"\npapers = ["2508.09987"]\n')
    return "".join(parts) + _RIGHTS


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Files of a private and a public key that sign this rehearsal and nothing else."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / "rehearsal.key", folder / "rehearsal.pub"
    if not public.is_file():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        folder.mkdir(parents=True, exist_ok=True)
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        write_atomic(public, key.public_key().public_bytes(pem, form))
    return private, public


_CARD = """\
[model.card]
license = "apache-2.0"
limits = ["It paints the sandbox's world of eight shapes, at 64 pixels, and nothing else."]
contact = "nobody: this model never leaves the machine"
[[model.card.parts]]
name = "echo4o tiny autoencoder"
role = "image autoencoder"
license = "apache-2.0"
"""
_RIGHTS = """\
[rights]
generator = "sandbox-image, the painter of the sandbox"
terms = "none"
terms_read = 2026-01-01
account = "none"
may_train_competing_model = "yes"
signed_off = "the rehearsal"
take_down = "nobody: this dataset never leaves the machine"
[rights.licences]
outputs = "Apache-2.0"
instructions = "Apache-2.0"
references = "Apache-2.0"
items = "Apache-2.0"
# A folder given with --data may hold any references; what is rehearsed is not published.
[[rights.references]]
match = "*"
licence = "unknown, rehearsal only"
consent = "unknown, rehearsal only"
"""


def kit_items() -> Path:
    """The benchmark's own items, which no training row may repeat (a file, not an import)."""
    return _eval_folder() / "items/geneval_plus_plus_kit.jsonl"


def metric_names() -> list[str]:
    """The metrics that `eval push metrics` publishes, each a Space of that name."""
    return sorted(path.parent.name for path in _eval_folder().glob("metrics/*/README.md"))


def metric_module(name: str) -> Path | None:
    """The module of an installed metric."""
    path = _eval_folder() / "metrics" / name / f"{name}.py"
    return path if path.is_file() else None


def _eval_folder() -> Path:
    spec = importlib.util.find_spec("echo4o.eval")
    if spec is None or not spec.submodule_search_locations:
        raise Echo4oError("the package echo4o.eval is missing; install echo4o again")
    return Path(spec.submodule_search_locations[0])
