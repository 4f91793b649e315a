"""What is changed in the commands and snippets of our pages so that they end in seconds here.

Whatever stands in neither table runs exactly as it is on its page. `tests/pages` refuses an entry
that no page has any more, and too many of those that cannot run.
"""

NAMES = {"MODEL": "sandbox-image", "JUDGE": "sandbox-judge", "<judge model>": "sandbox-judge"}
"""Words that a reader replaces, too. ORG, Yejy53 and OmniGen2 exist on the Hub of these tests."""

CANNOT = {
    r"make ": "runs these tests, or for minutes; .ci/run runs each of them but rehearse",
    r"pip install ": "installing is what `make wheel` and the fresh environments do",
    r"(torchrun|accelerate launch) ": "needs eight GPUs, or two machines",
    r"echo4o train run \w+ --processes 8 ": "needs eight GPUs",
    r"(hf buckets|training/jobs/hf_job.sh) ": "HF Jobs and buckets exist on the real Hub only",
    r"echo4o eval fetch": "asks GitHub; tests/eval/test_fetch.py fetches from a server like it",
}
"""Beginning of a command -> why it cannot run here."""

_KIT = "--items kit --limit 7 --steps 1"

CHANGES = {
    "README.md": {
        'device_map="cuda"': 'device_map="cpu"',
        "--size 1024x768": "--size 64x48",
        'OmniGen2/OmniGen2 "a cat"': 'OmniGen2/OmniGen2 "a cat" --size 64x64 --steps 2',
        "echo4o space run generate": "serve echo4o space run generate --port 0",
        "train run tiny --data": "train run tiny --set steps=2 --data",
        "--items kit --model run/model": f"{_KIT} --model run/model",
        "spaces/ORG/NAME@COMMIT": '"$(cat COMMIT)" --here',
        '"MODEL of PROVIDER"': '"sandbox-image of the sandbox"',
        '"https://..."': '"https://example.org/terms"',
        '"NAME"': '"A. Person"',
        '"ADDRESS"': '"removal@example.org"',
        '"..."': '"MIT"',
        "echo4o sandbox serve": "serve echo4o sandbox serve --openai-port 0 --hub-port 0",
    },
    "training/README.md": {
        "train cache echo4o_7b ": "train cache tiny ",
        "train run echo4o_7b --data": "train run tiny --set steps=2 --data",
        "train run echo4o_7b_lora --data my_rows": "train run tiny --set steps=2 --data my_rows",
        "train run echo4o_7b_lora --data ORG": "train run tiny --set steps=2 --data ORG",
        "train run omnigen2_lora": "train run tiny_omnigen2 --set steps=2",
        "train cache blip3o_dit": "train cache tiny_blip3o",
        "train run blip3o_dit": "train run tiny_blip3o --set steps=2",
        "--items authors --judge JUDGE": f"{_KIT} --judge JUDGE",
        "--tasks geneval_plus_plus imagine_bench": "--tasks geneval_plus_plus",
        "train run tiny --processes 2": "train run tiny --set steps=2 --processes 2",
        "shard=full --data ORG/echo-4o-image --out run": "shard=full --data ORG/echo-4o-image "
        "--out shared",
    },
    "eval/README.md": {
        "export OPENAI_API_KEY=...": ":",
        "--items authors --model Yejy53/Echo-4o": f"{_KIT} --model Yejy53/Echo-4o",
        "geneval --items authors --model MODEL": f"geneval {_KIT} --model Yejy53/Echo-4o",
        "facebook/mask2former-swin-small-coco-instance@REVISION": "tiny-mask2former "
        "--colours tiny-clip",
        "omnicontext --items authors --model MODEL": f"omnicontext {_KIT} --model Yejy53/Echo-4o",
        "push items TASK": "push items geneval_plus_plus",
        "submit run ORG/MODEL": "submit run Yejy53/Echo-4o",
        "job ORG/MODEL": "job Yejy53/Echo-4o",
        "echo4o eval watch ORG/MODEL": "serve echo4o eval watch Yejy53/Echo-4o",
        "--port 8090": "--port 0",
    },
}
"""Page -> text on it -> what runs in its place."""

STORIES = [
    ("README.md", ("import torch", "echo4o model generate")),
    ("README.md", ("echo4o data import", "from datasets import")),
    ("README.md", ("echo4o data plan",)),
    ("README.md", ("echo4o sandbox serve",)),
    ("training/README.md", ("echo4o train plan", "echo4o train run echo4o_7b_lora", "# One GPU")),
    ("training/README.md", ("echo4o train run omnigen2_lora",)),
    ("training/README.md", ("echo4o train cache blip3o_dit",)),
    ("eval/README.md", ("export OPENAI_API_KEY", "echo4o eval fetch geneval")),
    ("eval/README.md", ("echo4o eval import", "echo4o eval fetch omnicontext")),
    ("eval/README.md", ("echo4o eval push items", "echo4o eval job")),
    ("spaces/generate/README.md", ("from gradio_client",)),
    ("spaces/explore/README.md", ("from gradio_client",)),
    ("README.md", ("openssl ecparam",)),
]
"""Page -> beginnings of the blocks that run in one folder, one after the other."""
