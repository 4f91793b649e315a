"""Files and batches end to end through the official client, also across a restart."""

import json
import time

import openai
import pytest
from tests_sandbox import connect, image_api, restartable


def line(custom_id, prompt, **options):
    body = {"model": "sandbox-image", "prompt": prompt, "size": "64x64"} | options
    url = "/v1/images/generations"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def submit(api, lines, endpoint="/v1/images/generations"):
    data = "".join(json.dumps(one) + "\n" for one in lines).encode()
    file = api.files.create(file=("lines.jsonl", data), purpose="batch")
    return api.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


def wait(api, batch):
    deadline = time.monotonic() + 30
    while batch.status not in ("completed", "failed", "cancelled"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = api.batches.retrieve(batch.id)
    return batch


def read(api, file_id):
    return [json.loads(text) for text in api.files.content(file_id).text.splitlines()]


def test_batch_has_outputs_and_errors(sandbox):
    api = connect(sandbox)
    lines = [line("good", "one circle"), line("bad", "one circle", size="1x1")]
    batch = wait(api, submit(api, lines))
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 2, 1, 1)
    (good,) = read(api, batch.output_file_id)
    (bad,) = read(api, batch.error_file_id)
    assert good["custom_id"] == "good"
    assert good["response"]["body"]["data"][0]["b64_json"].startswith("iVBOR")
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["param"] == "size"
    assert batch.id in [one.id for one in api.batches.list(limit=100)]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "invalid_file"),
        ([line("a", "x"), line("a", "y")], "duplicate_custom_id"),
        ([{"custom_id": "a"}], "invalid_json_line"),
        ([line("a", "\ud800")], "invalid_json_line"),
        ([line("a", "x") | {"url": "/v1/chat/completions"}], "mismatched_endpoint"),
    ],
)
def test_bad_file_fails_as_a_whole(sandbox, lines, code):
    api = connect(sandbox)
    batch = wait(api, submit(api, lines))
    assert batch.status == "failed"
    assert batch.errors.data[0].code == code
    assert batch.output_file_id is None


def test_batch_is_half_price_and_survives_a_restart(tmp_path):
    lines = [line(f"n{number}", f"scene {number} of three red rings") for number in range(60)]
    with restartable(tmp_path) as start:
        api = connect(start())
        batch = submit(api, lines)
        api = connect(start(kill=True))
        batch = wait(api, batch)
        outputs = read(api, batch.output_file_id)
    assert [one["custom_id"] for one in outputs] == [f"n{number}" for number in range(60)]
    bills = [json.loads(x) for x in (tmp_path / "openai/calls.jsonl").read_text().splitlines()]
    # At most the line that ran when the server was killed is run again.
    assert len({bill["key"] for bill in bills}) == 60
    assert len(bills) <= 61
    assert {bill["batch"] for bill in bills} == {True}
    assert bills[0]["cost_usd"] == pytest.approx((7 * 5 + 32 * 40) / 1e6 / 2)


def test_what_a_kill_cut_off_spoils_no_other_line(tmp_path):
    with image_api(tmp_path) as sandbox:
        batch = submit(connect(sandbox), [line(f"n{number}", "a ring") for number in range(300)])
    log = tmp_path / f"openai/batches/{batch.id}.lines"
    with log.open("a") as file:
        file.write('{"id": "cut o')
    with image_api(tmp_path) as sandbox:
        assert wait(connect(sandbox), batch).request_counts.completed == 300
    assert [text for text in log.read_text().split("\n") if text and text[-1] != "}"] == [
        '{"id": "cut o'
    ]


def test_a_batch_that_cannot_go_on_fails(tmp_path):
    with image_api(tmp_path) as sandbox:
        # Large pictures, so that not all of them are finished when the server ends.
        lines = [line(f"n{number}", "a ring", size="1024x1024") for number in range(300)]
        batch = submit(connect(sandbox), lines)
    (tmp_path / f"openai/files/{batch.input_file_id}.json").unlink()
    with image_api(tmp_path) as sandbox:
        api = connect(sandbox)
        batch = wait(api, batch)
        assert batch.status == "failed"
        assert "No such file" in batch.errors.data[0].message


def test_cancel_keeps_what_is_finished(tmp_path):
    with image_api(tmp_path) as sandbox:
        api = connect(sandbox)
        lines = [line(f"n{number}", f"{number}", size="512x512") for number in range(200)]
        batch = api.batches.cancel(submit(api, lines).id)
        assert batch.status == "cancelling"
        batch = wait(api, batch)
        assert batch.status == "cancelled"
        assert batch.request_counts.completed < 200
        with pytest.raises(openai.ConflictError):
            api.batches.cancel(batch.id)


def test_files_are_kept_and_removed(sandbox):
    api = connect(sandbox)
    file = api.files.create(file=("a.txt", b"hello"), purpose="user_data")
    assert api.files.retrieve(file.id).bytes == 5
    assert api.files.content(file.id).read() == b"hello"
    assert api.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve("..%2f..%2fcalls")
