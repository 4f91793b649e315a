"""Run by `make wheel` in an environment that has the wheel and nothing else: is all of it there?"""

import subprocess
import sys
from importlib.resources import files

import echo4o

DATA = {
    "echo4o": ["py.typed", "prices.json"],
    "echo4o.dataset_builder": ["shapes.toml"],
    "echo4o.eval": [
        "items/geneval_plus_plus_kit.jsonl",
        "metrics/geneval_plus_plus/geneval_plus_plus.py",
        "metrics/geneval_plus_plus/README.md",
    ],
    "echo4o.model_cards": ["templates/dataset.md.jinja", "templates/model.md.jinja"],
    "echo4o.models": ["tiny_autoencoder/diffusion_pytorch_model.safetensors"],
}

missing = [
    f"{package}/{name}"
    for package, names in DATA.items()
    for name in names
    if not files(package).joinpath(name).is_file()
]
if not (files("echo4o") / "_spaces/generate/app.py").is_file():
    missing.append("echo4o/_spaces/generate/app.py")
assert not missing, f"the wheel lacks {missing}"
for words in (["--help"], ["release", "--help"], ["data", "plan", "--help"]):
    subprocess.run([sys.executable, "-m", "echo4o.cli", *words], check=True, capture_output=True)
plan = ["data", "plan", "shapes", "--rows", "20", "--out", "plan"]
subprocess.run([sys.executable, "-m", "echo4o.cli", *plan], check=True, capture_output=True)
print(f"echo4o {echo4o.__version__}: the wheel has its data, its commands run without torch")
