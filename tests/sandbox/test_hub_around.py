"""The sandbox Hub through the real client: collections, scores, webhooks."""

from pathlib import Path

from hub_server import PRELUDE, HubServer


def test_collections_as_the_client_makes_them(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
api.create_repo("listed", repo_type="dataset")
api.create_repo("hidden", repo_type="model", private=True)
made = api.create_collection("My release", description="all of it", exists_ok=True)
assert made.slug.startswith("rehearsal/my-release-") and made.items == [] and not made.private
assert api.create_collection("My release", exists_ok=True).slug == made.slug
refused(HfHubHTTPError, 409, api.create_collection, "My release")
refused(HfHubHTTPError, 400, api.create_collection, "x" * 60)
refused(HfHubHTTPError, 403, api.create_collection, "theirs", namespace="other")
refused(HfHubHTTPError, 403, reader.create_collection, "read only")
add = lambda *words, **named: api.add_collection_item(made.slug, *words, **named)
add("rehearsal/listed", "dataset", note="the data")
add("rehearsal/hidden", "model")
got = add("2508.09987", "paper")
assert [(i.item_type, i.item_id, i.note) for i in got.items][0] == (
    "dataset", "rehearsal/listed", "the data")
assert [i.position for i in got.items] == [0, 1, 2]
refused(HfHubHTTPError, 409, add, "rehearsal/listed", "dataset")
assert len(add("rehearsal/listed", "dataset", exists_ok=True).items) == 3
refused(HfHubHTTPError, 404, add, "rehearsal/none", "dataset")
refused(HfHubHTTPError, 403, other.add_collection_item, made.slug, "2508.09987", "paper")
assert [i.item_id for i in nobody.get_collection(made.slug).items] == [
    "rehearsal/listed", "2508.09987"]
api.update_collection_item(made.slug, got.items[0].item_object_id, note="new", position=9)
last = api.get_collection(made.slug).items[-1]
assert (last.item_type, last.note) == ("dataset", "new")
api.delete_collection_item(made.slug, got.items[1].item_object_id)
refused(HfHubHTTPError, 404, api.delete_collection_item, made.slug, got.items[1].item_object_id)
refused(HfHubHTTPError, 404, api.delete_collection_item, made.slug, "zz")
assert api.update_collection_metadata(made.slug, private=True).private
refused(HfHubHTTPError, 404, nobody.get_collection, made.slug)
assert [c.slug for c in api.list_collections(owner="rehearsal")] == [made.slug]
assert not list(nobody.list_collections(owner="rehearsal"))
api.delete_repo("listed", repo_type="dataset")
assert [i.item_type for i in api.get_collection(made.slug).items] == ["paper"]
api.delete_collection(made.slug)
refused(HfHubHTTPError, 404, api.get_collection, made.slug)
api.delete_collection(made.slug, missing_ok=True)
"""
    )
    hub.run(script, home, str(tmp_path))


def test_scores_of_models_and_their_leaderboard(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
def put(kind, repo, name, text):
    api.create_repo(repo, repo_type=kind, exist_ok=True)
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=f"rehearsal/{repo}",
                    repo_type=kind)
row = "- dataset: {id: rehearsal/bench, task_id: %s}\n  value: %s\n  notes: by a judge\n"
put("dataset", "bench", "eval.yaml", "name: b\ntasks: [{id: overall}, {id: counting}]\n")
put("dataset", "plain", "a.txt", "a")
put("model", "good", ".eval_results/a.yaml", row % ("overall", 0.7) + row % ("counting", 0.9))
put("model", "good", ".eval_results/b.yaml", row % ("overall", 0.6))
put("model", "tuned", ".eval_results/a.yaml", row % ("overall", 0.8))
put("model", "tuned", "README.md", "---\nbase_model: rehearsal/good\n---\n")
for number, text in enumerate(["{}", "- 1", "[", row % ("overall", ".nan"), row % ("x", "yes")]):
    put("model", "broken", f".eval_results/{number}.yaml", text)
found = api.model_info("rehearsal/good", expand=["evalResults"]).eval_results
assert [(r.task_id, r.value, r.notes) for r in found] == [
    ("overall", 0.7, "by a judge"), ("counting", 0.9, "by a judge"), ("overall", 0.6, "by a judge")]
assert api.model_info("rehearsal/broken", expand=["evalResults"]).eval_results == []
first, = api.get_dataset_leaderboard("rehearsal/bench")
assert (first.rank, first.model_id, first.value) == (1, "rehearsal/good", 0.7)
assert first.author.username == "rehearsal" and not first.verified
both = api.get_dataset_leaderboard("rehearsal/bench", base_model_only=False)
assert [(r.rank, r.model_id, r.value) for r in both] == [
    (1, "rehearsal/tuned", 0.8), (2, "rehearsal/good", 0.7)]
refused(HfHubHTTPError, 404, api.get_dataset_leaderboard, "rehearsal/plain")
"""
    )
    hub.run(script, home, str(tmp_path))


def test_webhooks_tell_of_commits_on_main(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
import queue, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from huggingface_hub import WebhookPayload
got, failed = queue.Queue(), []
class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if failed else 500)
        failed.append(True)
        got.put((self.headers["X-Webhook-Secret"], body))
        self.end_headers()
    def log_message(self, *words): pass
server = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/hook"
api.create_repo("watched")
api.create_repo("other")
watched = [{"type": "model", "name": "rehearsal/watched"}]
refused(HfHubHTTPError, 400, api.create_webhook, url="http://example.org/", watched=watched)
refused(HfHubHTTPError, 400, api.create_webhook, url=url, watched=[])
refused(HfHubHTTPError, 403, reader.create_webhook, url=url, watched=watched)
hook = api.create_webhook(url=url, watched=watched, domains=["repo"], secret="shh")
assert [w.id for w in api.list_webhooks()] == [hook.id] and not hook.disabled
assert other.list_webhooks() == []
put = lambda repo, **named: api.upload_file(
    path_or_fileobj=os.urandom(9), path_in_repo="a.txt", repo_id=f"rehearsal/{repo}", **named)
put("other")
commit = put("watched").oid
(secret, body), (_, again) = got.get(timeout=90), got.get(timeout=90)
assert secret == "shh" and body == again, "a failed delivery is repeated"
told = WebhookPayload(**json.loads(body))
assert (told.event.action, told.event.scope) == ("update", "repo.content")
assert (told.repo.type, told.repo.name) == ("model", "rehearsal/watched")
assert (told.updatedRefs[0].ref, told.updatedRefs[0].newSha) == ("refs/heads/main", commit)
put("watched", create_pr=True)
request, = api.get_repo_discussions("rehearsal/watched")
api.merge_pull_request("rehearsal/watched", request.num)
told = json.loads(got.get(timeout=90)[1])
assert told["updatedRefs"][0]["oldSha"] == commit
assert told["updatedRefs"][0]["newSha"] == api.model_info("rehearsal/watched").sha
assert api.disable_webhook(hook.id).disabled
put("watched")
assert not api.enable_webhook(hook.id).disabled
last = put("watched").oid
assert json.loads(got.get(timeout=90)[1])["updatedRefs"][0]["newSha"] == last
api.delete_webhook(hook.id)
refused(HfHubHTTPError, 404, api.get_webhook, hook.id)
"""
    )
    hub.run(script, home, str(tmp_path))
