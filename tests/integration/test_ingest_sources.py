"""Where data may come from: http with broken connections, the Hub's local cache, Chinese text."""

from __future__ import annotations

import http.server
import threading

import pytest

from components.contract import DataError, SpecError, StepError
from components.ingest import sources
from components.lib.dataset import load_split
from tests.fault_proxy import fault_proxy
from tests.ingesting import ingest, write
from tests.unit.test_ingest_encode import chinese_tokenizer

BODY = b"text,label\n" + b"".join(b"row %d,%d\n" % (n, n % 2) for n in range(20_000))


CHINESE_TEXTS = """{"text": "手机坏了", "label": "差"}
{"text": "很好", "label": "好"}
"""


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves BODY, with Range; drops the connection in the middle of whole answers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200 if self.path == "/a.csv" else 404)
        self.send_header("Content-Length", str(len(BODY) if self.path == "/a.csv" else 0))
        self.send_header("ETag", '"v1"')
        self.end_headers()

    def do_GET(self):
        if self.path != "/a.csv":
            self.do_HEAD()
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.server.starts.append(start)
        part = BODY[start:]
        self.wfile.write(part[: max(1, len(part) // 2)] if len(self.server.starts) < 3 else part)
        self.close_connection = True


@pytest.fixture
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    found.starts = []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_a_download_goes_on_where_it_broke(tmp_path, server):
    uri = f"http://127.0.0.1:{server.server_port}/a.csv"
    staged = sources.stage("train", uri, tmp_path)
    assert staged.path.read_bytes() == BODY
    assert server.starts[0] == 0
    assert len(server.starts) == 3
    assert 0 < server.starts[1] < server.starts[2]
    assert sources.identity(uri) == [uri, '"v1"', str(len(BODY))]
    with pytest.raises(DataError, match="server answers 404"):
        sources.identity(uri.replace("a.csv", "b.csv"))
    assert not list(tmp_path.glob("*.partial"))


def test_a_server_that_stays_down_is_an_error(tmp_path, server, monkeypatch):
    monkeypatch.setattr(sources, "HTTP_ATTEMPTS", 2)
    with fault_proxy(f"http://127.0.0.1:{server.server_port}") as (address, proxy):
        proxy.faults, proxy.share = ["reset"], 1.0
        with pytest.raises((StepError, DataError), match=r"a\.csv"):
            sources.stage("train", f"{address}/a.csv", tmp_path)


def test_the_hubs_local_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "a" * 40
    root = tmp_path / "hub" / "datasets--org--news"
    write(root / "refs", "main", commit)
    blob = write(root / "blobs", "0123", "text,label\na,b\nc,d\n")["uri"]
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "snapshots" / commit / "train.csv").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    uri = "hf://datasets/org/news/train.csv"
    assert sources.stage("train", uri, tmp_path).path.read_text().startswith("text,label")
    assert sources.identity(uri) == [uri, "0123"]
    with pytest.raises(DataError, match="the Hub does not give it"):
        sources.stage("train", "hf://datasets/org/other/train.csv", tmp_path)
    with pytest.raises(SpecError, match="is not hf://"):
        sources.stage("train", "hf://train.csv", tmp_path)


def test_chinese_entities_and_texts(tmp_path):
    chinese_tokenizer(tmp_path / "model")
    model = {"id": str(tmp_path / "model")}
    first = "我 O|爱 O|北 B-地点|京 I-地点"
    second = "小 B-机构|米 I-机构|公 I-机构|司 I-机构|在 O|深 B-地点|圳 I-地点"
    text = f"{first}||{second}|".replace("|", "\n")
    entry = write(tmp_path, "d.conll", text)
    data = {"train": entry, "validation": entry, "test": entry}
    folder, manifest = ingest(tmp_path, data, model=model)
    assert manifest["labels"] == ["O", "B-地点", "I-地点", "B-机构", "I-机构"]
    split = load_split(folder, "train")
    assert [manifest["labels"][i] for i in split.values("labels", 0) if i >= 0] == [
        "O",
        "O",
        "B-地点",
        "I-地点",
    ]
    entry = write(tmp_path, "d.jsonl", CHINESE_TEXTS)
    data = {"train": entry, "validation": entry, "test": entry}
    folder, manifest = ingest(tmp_path, data, "text-classification", model=model)
    assert manifest["labels"] == ["好", "差"]
    assert load_split(folder, "train").lengths.tolist() == [6, 4]
