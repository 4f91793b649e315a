"""The sandbox Hub through unmodified datasets, evaluate, transformers and diffusers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    server = HubServer(tmp_path_factory.mktemp("hub"))
    yield server
    server.stop()


_DATASETS = r"""
import io, os, sys
from pathlib import Path
import evaluate, huggingface_hub as h
from datasets import Dataset, Features, Image, List, Value, get_dataset_config_names, load_dataset
from PIL import Image as Pictures
api, repo, work = h.HfApi(), "echo4o-sandbox/pictures", Path(sys.argv[1])

def picture(number):
    stream = io.BytesIO()
    Pictures.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}

features = Features({"id": Value("string"), "image": Image(), "more": List(Image())})
rows = [
    {"id": str(n), "image": picture(n), "more": [picture(n)] * (n % 3)} for n in range(30)
]
data = Dataset.from_list(rows, features=features)
data.push_to_hub(repo, config_name="first", set_default=True, num_shards=2, private=True)
data.select(range(10)).push_to_hub(repo, config_name="second", split="validation")
api.create_tag(repo, tag="v1", repo_type="dataset")
assert sorted(get_dataset_config_names(repo)) == ["first", "second"]
loaded = load_dataset(repo, split="train")
assert loaded.features == features and loaded.num_rows == 30
assert loaded[7]["image"].getpixel((0, 0)) == (7, 0, 0) and len(loaded[5]["more"]) == 2
assert load_dataset(repo, "second", split="validation", revision="v1").num_rows == 10
stream = load_dataset(repo, "first", split="train", streaming=True)
assert [row["id"] for row in stream] == [str(n) for n in range(30)]
shards = f"hf://datasets/{repo}@v1/first/*.parquet"
assert load_dataset("parquet", data_files=shards)["train"].num_rows == 30
again = data.push_to_hub(repo, config_name="first", create_pr=True)
assert again.pr_revision == "refs/pr/1"
try:
    load_dataset("echo4o-sandbox/none")
except Exception as error:
    assert "doesn't exist on the Hub" in str(error), error
else:
    raise AssertionError

(work / "double.py").write_text('''
import evaluate
import datasets
from .helper import factor

class Double(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": datasets.Value("int64")}))

    def _compute(self, predictions):
        return {"double": factor * sum(predictions)}
''')
(work / "helper.py").write_text("factor = 2\n")
(work / "README.md").write_text("---\ntitle: Double\nsdk: gradio\n---\n")
metric = api.create_repo("double", repo_type="space", space_sdk="gradio").repo_id
api.upload_folder(folder_path=work, repo_id=metric, repo_type="space")
assert evaluate.load(metric).compute(predictions=[1, 2]) == {"double": 6}
"""

_MODELS = r"""
import os, sys
import torch, huggingface_hub as h
from pathlib import Path
from transformers import (
    AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM)
from tokenizers import Tokenizer, models, pre_tokenizers
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
api, work = h.HfApi(), Path(sys.argv[1])
config = Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
model = Qwen2ForCausalLM(config)
repo = "echo4o-sandbox/tiny-text"
model.push_to_hub(repo, private=True)
words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").push_to_hub("rehearsal/words")
api.create_tag(repo, tag="v1")
loaded = AutoModelForCausalLM.from_pretrained(repo, revision="v1")
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters()))
assert PreTrainedTokenizerFast.from_pretrained("rehearsal/words")("b a c")["input_ids"] == [2, 1, 0]

(work / "pipeline.py").write_text('''
from diffusers import DiffusionPipeline

class Toy(DiffusionPipeline):
    def __init__(self, vae, scheduler):
        super().__init__()
        self.register_modules(vae=vae, scheduler=scheduler)

    def __call__(self):
        return self.vae.config.latent_channels
''')
sys.path.insert(0, str(work))
from pipeline import Toy
torch.manual_seed(0)
vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
toy = Toy(vae, FlowMatchEulerDiscreteScheduler())
toy.save_pretrained(work / "toy")
index = (work / "toy" / "model_index.json")
index.write_text(index.read_text().replace('name": "Toy"', 'name": ["pipeline", "Toy"]'))
(work / "toy" / "pipeline.py").write_text((work / "pipeline.py").read_text())
sys.path.remove(str(work)); del sys.modules["pipeline"]
repo = api.create_repo("toy").repo_id
api.upload_folder(folder_path=work / "toy", repo_id=repo)
found = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
assert found() == 4
assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), found.vae.parameters()))
pushed = AutoencoderKL.from_pretrained(repo, subfolder="vae")
pushed.push_to_hub("rehearsal/vae")
assert AutoencoderKL.from_pretrained("rehearsal/vae").config.latent_channels == 4
"""


# What is ours passes through the same libraries wherever it is pushed; these are the long runs.
@pytest.mark.slow
@pytest.mark.parametrize("script", [_DATASETS, _MODELS], ids=["datasets", "models"])
def test_libraries(hub: HubServer, tmp_path: Path, script: str) -> None:
    (tmp_path / "work").mkdir()
    hub.run(script, tmp_path / "home", str(tmp_path / "work"))
