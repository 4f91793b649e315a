"""Run by `make wheel` in an environment that has the wheel and nothing else: is all of it there?"""

import subprocess
import sys
from pathlib import Path

import echo4o

HOME = Path(echo4o.__file__).parent
DATA = [
    "py.typed",
    "prices.json",
    "dataset_builder/shapes.toml",
    "eval/items/geneval_plus_plus_kit.jsonl",
    "eval/items/omnicontext_kit/scene-beach.png",
    "eval/metrics/geneval/app.py",
    "eval/metrics/geneval_plus_plus/geneval_plus_plus.py",
    "eval/metrics/geneval_plus_plus/README.md",
    "eval/metrics/imagine_bench/app.py",
    "eval/templates/annotate.html",
    "eval/templates/hf_job.py",
    "eval/templates/report.html.jinja",
    "model_cards/templates/dataset.md.jinja",
    "model_cards/templates/model.md.jinja",
    "models/tiny_autoencoder/diffusion_pytorch_model.safetensors",
    "_spaces/explore/app.py",
    "_spaces/explore/page.js",
    "models/tiny_model/model/model.safetensors",
    "_spaces/generate/app.py",
    "_spaces/generate/examples/green-ring.png",
]

missing = [name for name in DATA if not (HOME / name).is_file()]
assert not missing, f"the wheel lacks {missing}"
for words in (["--help"], ["release", "--help"], ["data", "plan", "--help"]):
    subprocess.run([sys.executable, "-m", "echo4o.cli", *words], check=True, capture_output=True)
plan = ["data", "plan", "shapes", "--rows", "20", "--out", "plan"]
subprocess.run([sys.executable, "-m", "echo4o.cli", *plan], check=True, capture_output=True)
print(f"echo4o {echo4o.__version__}: the wheel has its data, its commands run without torch")
