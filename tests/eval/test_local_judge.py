"""A vision-language model of this machine as judge: a real class, random weights."""

import asyncio
import io
import json

import pytest
import torch
from eval_tools import KIT, paint_into
from PIL import Image

from echo4o.cli import main
from echo4o.client import ChatRequest
from echo4o.errors import Echo4oError
from echo4o.eval.items import select
from echo4o.eval.judging import JudgeConfig, check_judge
from echo4o.eval.local_judge import LocalJudge
from echo4o.ledger import Ledger

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LLaVA with 8 patches of sight and two layers, its tokenizer one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sight = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    speech = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=sight, text_config=speech, image_token_index=image,
            vision_feature_select_strategy="default",
        )
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    path = tmp_path_factory.mktemp("vlm") / "tiny-llava"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), color).save(buffer, "PNG")
    return buffer.getvalue()


def questions(model):
    texts = ("What is this?", "Why?", "How many objects does this picture show?", "Why?")
    colors = ("red", "blue", "green", "blue")
    return [
        ChatRequest(model=model, system="Judge.", user=(text, png(color)), max_tokens=6)
        for text, color in zip(texts, colors, strict=True)
    ]


def asked(folder, ledger, batch_size):
    async def work():
        with Ledger(ledger) as book:
            async with LocalJudge(f"local:{folder}", ledger=book, batch_size=batch_size) as judge:
                requests = questions(judge.model)
                replies = await asyncio.gather(*(judge.chat(one) for one in requests))
                return [one.text for one in replies], judge.calls_made, book.committed_usd

    return asyncio.run(work())


def test_answers_are_the_same_in_every_batch_and_kept(folder, tmp_path):
    together, calls, cost = asked(folder, tmp_path / "a" / "l.sqlite", 4)
    alone, _, _ = asked(folder, tmp_path / "b" / "l.sqlite", 1)
    assert together == alone
    assert together[1] == together[3]
    assert len(set(together)) > 1  # it looks at what it is asked
    assert (calls, cost) == (3, 0)  # equal questions are one
    assert asked(folder, tmp_path / "a" / "l.sqlite", 2) == (together, 0, 0)


def test_it_judges_as_an_api_does_at_no_cost(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pictures = paint_into(tmp_path / "pictures", select(KIT.items, 2))
    words = ["eval", "judge", "geneval_plus_plus", "--judge", f"local:{folder}", "--limit", "2"]
    words += ["--images", str(pictures), "--out", str(tmp_path / "run"), "--concurrency", "2"]
    monkeypatch.setattr("echo4o.eval.local_judge._LONGEST_REPLY", 6)
    monkeypatch.setattr("echo4o.eval.protocols.KitProtocol.attempts", 1)
    main(words)
    said = capsys.readouterr().out
    assert "2 unreadable; 2 calls now in " in said  # random weights speak no JSON
    assert " s, 0.0000 USD in all" in said
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    assert kept["judge"]["answered_as"][0].startswith("local:tiny-llava@")
    assert kept["judge"]["model"] == "local:tiny-llava"
    assert str(folder.parent) not in json.dumps(kept)
    assert kept["scores"]["overall"]["score"] == 0
    main(words)
    assert "0 calls now" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--repeats", "2"])
    assert "says the same every time" in capsys.readouterr().err


def test_what_is_no_judge_is_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(Echo4oError, match="neither a folder nor a Hub id"):
        check_judge(JudgeConfig(model="local:nothing"), tmp_path / "l.sqlite")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Echo4oError, match="is no vision-language model"):
        asked(tmp_path / "empty", tmp_path / "l.sqlite", 1)
