"""The compiled dynamic pipeline under kfp.local: other parameters, other requests of later tasks.

The IR runs up to its decide task; what the later tasks' pods would ask for is then read from the IR
as KFP's driver reads it.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, local

from components.lib.references import TOKENIZER_FILES, resolve_tokenizer_folder
from components.storage import Store, Tiers
from pipelines.dag import compile_pipeline
from pipelines.plan import make_plan
from pipelines.spec import parse_spec
from tests.plans import sample_market

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")

SPEC = """\
name: newsroom-ner
task: token-classification
model: {id: minilm-l6}
data:
  train: {uri: "TRAIN"}
  format: conll
training: {epochs: 3, max_length: 64}
compression: {variants: [fp32, int8]}
objective: {deadline: 2h, budget_usd: 5, capacity: [on-demand, spot]}
"""
UPSTREAM = ("ingest", "decide")
Requests = dict[str, dict[str, Any]]
MARKET = sample_market()


def conll(path: Path, sentences: int, words: int) -> Path:
    sentence = "In O\nParis{0} B-location\n" + "the O\n" * (words - 3) + ". O\n\n"
    path.write_text("".join(sentence.format(n) for n in range(sentences)))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Requests]:
    """Run the IR with parameters; returns what each later task's pod would ask for."""
    folder = tmp_path_factory.mktemp("dynamic")
    data = conll(folder / "train.conll", 400, 12)
    text = SPEC.replace("TRAIN", str(data))
    plan = make_plan(parse_spec(text, source="spec", folder=folder), catalog=MARKET.catalog)
    ir_yaml = compile_pipeline(plan, requests="dynamic", market=MARKET)
    documents = list(yaml.safe_load_all(ir_yaml))
    upstream = components.load_component_from_text(yaml.safe_dump_all(only_upstream(documents)))
    tiers = {tier: str(folder / tier) for tier in ("hot", "warm", "cold")}

    def start(**parameters: Any) -> Requests:
        root = folder / "kfp" / str(len(list(folder.glob("kfp/*"))))
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        upstream(store=json.dumps(tiers), **parameters)
        (output,) = root.rglob("decide-requests/executor_output.json")
        outputs = json.loads(output.read_text())["parameterValues"]
        return requests_of(documents, functools.partial(resolved, outputs))

    return start


def only_upstream(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    documents = copy.deepcopy(documents)
    pipeline = documents[0]
    del pipeline["root"]["dag"]["tasks"]["report"]
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    for key in [key for key, task in tasks.items() if task["taskInfo"]["name"] not in UPSTREAM]:
        del tasks[key]
    return documents


def resolved(outputs: dict[str, Any], reference: dict[str, Any], of: type) -> Any:
    """What the driver makes of an upstream output: the value in the one type it looks for, and
    otherwise nothing at all (GetStringValue, GetStructValue, GetListValue)."""
    assert reference["producerTask"] == "decide-requests"
    value = outputs[reference["outputParameterKey"]]
    return value if isinstance(value, of) else of()


def requests_of(
    documents: list[dict[str, Any]], resolve: Callable[[dict[str, Any], type], Any]
) -> Requests:
    pipeline, platform = documents
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: Requests = {}
    for task in pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"].values():
        name = task["taskInfo"]["name"]
        if name in UPSTREAM:
            continue
        label = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][label]["container"]["resources"]
        inputs = task["inputs"]["parameters"]

        def of(placeholder: str, inputs: dict[str, Any] = inputs) -> str:
            channel = placeholder.split("'")[1]
            text: str = resolve(inputs[channel]["taskOutputParameter"], str)
            return text

        pod = pods[label]
        selector = pod["nodeSelector"]["nodeSelectorJson"]["taskOutputParameter"]
        (taints,) = (t["tolerationJson"]["taskOutputParameter"] for t in pod["tolerations"])
        found[name] = {
            "cpu": of(container["resourceCpuRequest"]),
            "memory": of(container["resourceMemoryRequest"]),
            "limit": of(container["resourceMemoryLimit"]),
            of(container["accelerator"]["resourceType"]): of(
                container["accelerator"]["resourceCount"]
            ),
            "node": resolve(selector, dict).get("node.kubernetes.io/instance-type"),
            "taints": sorted(taint["key"] for taint in resolve(taints, list)),
        }
    return found


def test_parameters_change_what_later_tasks_ask_for(
    run: Callable[..., Requests], tmp_path: Path
) -> None:
    default = run()
    assert set(default) >= {"place", "train", "compress-int8", "evaluate-int8", "publish"}
    for name, asked in default.items():
        assert asked["cpu"].endswith("m"), name
        assert asked["memory"] == asked["limit"], name
        assert asked["memory"].endswith("Mi"), name
        assert asked["nvidia.com/gpu"] == "0", name
        assert asked["node"] == "m6i.large", name
    assert default["train"]["taints"] == ["karpenter.sh/capacity-type"]

    # A decision that is found by its marker is handed on all the same.
    assert run() == default

    # Epochs: many of them are cheaper on a GPU, a spot one that tolerates both taints.
    many = run(epochs=600)
    assert many["train"]["node"] == "g5.xlarge"
    assert many["train"]["nvidia.com/gpu"] == "1"
    assert many["train"]["taints"] == ["karpenter.sh/capacity-type", "nvidia.com/gpu"]
    assert many["train"]["cpu"] != default["train"]["cpu"]
    assert many["place"] == default["place"]

    # Budget: safely within the deadline, or only just with what is cheaper.
    soon = {"epochs": 100, "deadline": "28m"}
    assert run(**soon)["train"]["node"] == "m6i.2xlarge"
    assert run(**soon, budget_usd=0.02)["train"]["node"] == "m6i.large"

    # Data: longer sentences need more memory wherever batches of them are held.
    longer = conll(tmp_path / "longer.conll", 3000, 60)
    big = run(train_uri=str(longer), capacity="on-demand")
    assert mebibytes(big["train"]) > mebibytes(default["train"])
    assert big["train"]["taints"] == []


def mebibytes(asked: dict[str, Any]) -> int:
    return int(asked["memory"].removesuffix("Mi"))


def test_a_budget_that_nothing_keeps_stops_at_decide(
    run: Callable[..., Requests], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="decide-requests"):
        run(budget_usd=0.0001)
    told = "".join(capfd.readouterr())
    assert "InfeasiblePlanError" in told
    assert "objective.budget_usd" in told


WHOLE = """\
name: tiny-ner
task: token-classification
model: {config: model}
data:
  train: {uri: "TRAIN"}
  format: conll
training: {epochs: 40, max_length: 32}
compression: {variants: [int8], max_quality_drop: 0.5}
objective: {deadline: 2h, budget_usd: 5}
"""


def tiny_model(folder: Path) -> None:
    """A configuration to train from scratch, with the tokenizer that comes with the package."""
    folder.mkdir()
    config = {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 64, "vocab_size": 30522, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    source = resolve_tokenizer_folder({"id": "minilm-l6"})
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@pytest.mark.slow
def test_a_whole_run_publishes_what_its_parameters_asked_for(tmp_path: Path) -> None:
    """Every task of the pipeline, with other parameters than it was compiled with."""
    data = conll(tmp_path / "train.conll", 160, 8)
    tiny_model(tmp_path / "model")
    text = WHOLE.replace("TRAIN", str(data))
    plan = make_plan(parse_spec(text, source="spec", folder=tmp_path), catalog=MARKET.catalog)
    ir_yaml = compile_pipeline(plan, requests="dynamic", market=MARKET)
    pipeline = components.load_component_from_text(ir_yaml)
    tiers = {tier: str(tmp_path / "store" / tier) for tier in ("hot", "warm", "cold")}
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    pipeline(store=json.dumps(tiers), epochs=1, seed=7, budget_usd=2.0, max_quality_drop=0.9)

    (folder,) = (tmp_path / "store/hot/runs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "succeeded", report["error"]
    assert report["spec"]["training"]["epochs"] == 1
    assert report["spec"]["training"]["seed"] == 7
    assert report["spec"]["objective"]["budget_usd"] == 2.0
    assert report["spec"]["compression"]["max_quality_drop"] == 0.9
    assert report["selected"] in {variant["name"] for variant in report["variants"]}
    decided = {path.stem: json.loads(path.read_text()) for path in (folder / "decided").iterdir()}
    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob("steps/*.json")}
    assert set(reports) >= {"train", "evaluate-int8", "select", "publish"}
    assert reports["train"]["workload"]["epochs"] == 1
    for step in ("train", "evaluate-int8", "publish"):
        assert reports[step]["requested"] == decided[step]["requested"], step
    store = Store(Tiers.under(tmp_path / "store"))
    published = store.fetch(reports["publish"]["output"], tmp_path / "published")
    assert list(published.rglob("model.onnx"))
