"""The dependency rule: spokes never import each other, the core no spoke, nobody torch early."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPOKES = ("dataset_builder", "training", "eval", "model_cards")
FOLDERS = {"": ROOT / "src/echo4o", **{spoke: ROOT / spoke for spoke in SPOKES}}
ONLY_IN = {
    "gradio": {"spaces", "eval/metrics"},
    "fastapi": {"src/echo4o/sandbox"},
    "evaluate": {"eval"},
    "accelerate": {"training", "eval"},
    "peft": {"training", "src/echo4o/models"},
    "jinja2": {"model_cards", "eval", "dataset_builder"},
}


def python_files() -> list[Path]:
    return [
        file
        for folder in FOLDERS.values()
        for file in sorted(folder.rglob("*.py"))
        if "metrics" not in file.parts
    ]


def imported(file: Path) -> set[str]:
    """Absolute names of all modules that a file imports, relative imports resolved."""
    names: set[str] = set()
    home = module_of(file).split(".")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = home[: len(home) - node.level + (file.name == "__init__.py")]
            base = ".".join([*up, node.module or ""]) if node.level else node.module or ""
            names |= {base.rstrip(".")} | {f"{base.rstrip('.')}.{a.name}" for a in node.names}
    return names


def test_browser_tests_stand_where_make_browser_looks():
    tests = ROOT / "tests"
    marked = [file for file in tests.rglob("test_*.py") if "mark.browser\n" in file.read_text()]
    found = {*tests.glob("*/test_*browser.py"), *tests.glob("*/*/test_*browser.py")}
    assert marked
    assert set(marked) <= found


def module_of(file: Path) -> str:
    for spoke in SPOKES:
        if file.is_relative_to(ROOT / spoke):
            parts = ["echo4o", spoke, *file.relative_to(ROOT / spoke).with_suffix("").parts]
            break
    else:
        parts = list(file.relative_to(ROOT / "src").with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("file", python_files(), ids=module_of)
def test_imports_follow_the_rule(file):
    spoke = next((name for name in SPOKES if file.is_relative_to(ROOT / name)), "")
    allowed = {spoke} | ({"model_cards"} if spoke and spoke != "model_cards" else set())
    for name in imported(file):
        for other in SPOKES:
            if name == f"echo4o.{other}" or name.startswith(f"echo4o.{other}."):
                assert other in allowed, f"{module_of(file)} must not import {name}"
        if name.startswith("echo4o.sandbox"):
            assert module_of(file).startswith("echo4o.sandbox"), f"{file} imports the sandbox"
        home = ONLY_IN.get(name.split(".")[0])
        path = file.relative_to(ROOT).as_posix()
        assert home is None or any(path.startswith(folder) for folder in home), f"{path}: {name}"


def test_package_list_equals_the_folders():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {p for p in config["tool"]["setuptools"]["packages"] if not p.startswith("echo4o._")}
    found = {module_of(f) for f in python_files() if f.name == "__init__.py"}
    assert listed == found


def test_spaces_is_no_package():
    assert not list((ROOT / "spaces").rglob("__init__.py"))


@pytest.mark.parametrize("library", ["torch", "datasets", "transformers", "diffusers", "openai"])
def test_core_imports_stay_light(library):
    names = "echo4o, echo4o.cli, echo4o.schema, echo4o.records, echo4o.hub, echo4o.client"
    clis = ", ".join(sorted(cli_modules()))
    code = f"import {names}, {clis}, sys; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def cli_modules() -> set[str]:
    from echo4o.cli import VERBS

    return {target.split(":")[0] for verbs in VERBS.values() for target, _ in verbs.values()}


def test_every_verb_has_help_without_torch(tmp_path):
    """All `--help` texts print in a process in which torch cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not installed here')")
    code = (
        "import contextlib, io, sys\n"
        "from echo4o.cli import VERBS, main\n"
        "for noun, verbs in VERBS.items():\n"
        "    for verb in verbs:\n"
        "        text = io.StringIO()\n"
        "        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):\n"
        "            main([word for word in (noun, verb, '--help') if word])\n"
        "        assert 'usage:' in text.getvalue(), (noun, verb, text.getvalue())\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
