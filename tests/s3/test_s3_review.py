"""A review of a workspace in a bucket: plan, decisions through the server, and the estimate that uses them."""

import http.client
import json
import threading

import pandas as pd
import pytest

from emqa_dask.pipeline.commands.estimate import estimate
from emqa_dask.pipeline.commands.review_plan import plan_review
from emqa_dask.pipeline.commands.triage import triage_archive
from emqa_dask.pipeline.workspace.review_desk import ReviewDesk
from emqa_dask.review.server import ReviewServer
from emqa_dask.settings import Settings, replace
from emqa_dask.store import decisions, files
from emqa_dask.store.layout import Workspace

pytestmark = pytest.mark.real
SETTINGS = replace(Settings(), {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}})
BUDGET = 8


def ask(server, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    headers = {"Cookie": f"{server.cookie}={server.token}", "Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    return content


def test_review_in_a_bucket_is_stored_and_used(healthy, small_archive):
    root = f"{healthy[0]}/ws"
    triage_archive(small_archive, root, SETTINGS, say=lambda text: None)
    plan_review(root, SETTINGS, budget=BUDGET, say=lambda text: None)
    desk = ReviewDesk(Workspace(root), SETTINGS, "ann")
    with ReviewServer(0, desk.reads, desk.writes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        images = json.loads(ask(server, "/api/queue"))["images"]
        for image in images:
            shape = image["height"], image["width"]
            window = f"y0=0&x0=0&y1={shape[0]}&x1={shape[1]}&step=1"
            assert len(ask(server, f"/api/pixels?id={image['id']}&{window}")) == 2 * shape[0] * shape[1]
            found = json.loads(ask(server, f"/api/objects?id={image['id']}"))
            objects = list(range(len(found["detections"])))
            body = {"id": image["id"], "decision": "accept", "objects": objects, "reviewer": "ann"}
            ask(server, "/api/decide", body)
        server.shutdown()
    table, damaged = decisions.read_decisions(root)
    assert (len(table), damaged) == (len(images), [])
    assert len(images) == BUDGET
    other = ReviewDesk(Workspace(root), SETTINGS, "bob")  # the server of another reviewer, elsewhere
    assert other.list_states({}).content == {image["id"]: {"ann": "accept"} for image in images}
    assert estimate(root, "reviewed", SETTINGS, say=lambda text: None) == 0
    with files.open_read(files.join(root, "estimates.parquet")) as stream:
        rows = pd.read_parquet(stream).set_index("quantity")
    assert rows.loc["n_objects", "n_labels"] == BUDGET
