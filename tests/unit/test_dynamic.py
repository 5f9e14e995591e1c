"""``--requests dynamic``: parameters in the pipeline, requests of later tasks from decide."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import yaml

from components.contract import InfeasiblePlanError, SpecError, StepError
from components.ingest.parameters import with_parameters as ingest_with
from components.runtime import DECIDED, execute
from components.storage import Store, Tiers
from pipelines.control.decide.dynamic import decide_again
from pipelines.control.decide.grants import (
    HEADROOM,
    KINDS,
    OUTPUTS,
    beyond,
    grants,
    levelled,
    limits_of,
    with_headroom,
)
from pipelines.control.decide.node_set import Market, catalog_of, node_set
from pipelines.control.decide.parameters import default_values, from_text, located_spec, with_values
from pipelines.control.decide.step import compare, with_factors
from pipelines.cost.estimate import Resources
from pipelines.dag import compile_manifest, compile_pipeline
from pipelines.follow import _as_decided
from pipelines.plan import Plan, make_plan, plan_from_json
from pipelines.submission import (
    decide_arguments,
    is_dynamic,
    submission_of,
    version_name,
    with_parameters,
)
from tests.golden_files import check_golden
from tests.kubernetes_schemas import problems
from tests.plans import GIB, sample_market, sample_plan, sample_spec
from tests.support import needs_shared

PLAN = sample_plan()
MARKET = sample_market()
SPEC = PLAN.spec


@pytest.fixture(scope="module")
def ir() -> str:
    return compile_pipeline(PLAN, requests="dynamic", market=MARKET, queue="research")


def dynamic(plan: Plan = PLAN, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and its executors' pod settings."""
    text = compile_pipeline(plan, requests="dynamic", market=MARKET, **options)
    pipeline, platform = yaml.safe_load_all(text)
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def decide_task(pipeline: dict[str, Any]) -> dict[str, Any]:
    task: dict[str, Any] = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"][
        "decide-requests"
    ]
    return task


# -- the compiled pipeline -----------------------------------------------------------------------


def test_golden_dynamic_pipeline(ir: str) -> None:
    check_golden("pipeline-dynamic.yaml", ir)


def test_golden_dynamic_manifest() -> None:
    text = compile_manifest(
        PLAN, namespace="suanli", version="newsroom-ner-1", requests="dynamic", market=MARKET
    )
    check_golden("pipeline-dynamic-manifest.yaml", text)


@needs_shared
def test_dynamic_manifest_is_valid_by_its_crds() -> None:
    text = compile_manifest(
        PLAN, namespace="suanli", version="newsroom-ner-1", requests="dynamic", market=MARKET
    )
    found = list(yaml.safe_load_all(text))
    assert [item["kind"] for item in found] == ["Pipeline", "PipelineVersion"]
    assert [text for item in found for text in problems(item)] == []


def test_same_plan_and_market_same_bytes(ir: str) -> None:
    again = plan_from_json(json.loads(json.dumps(PLAN.to_json())))
    market = dataclasses.replace(MARKET.catalog, instances=MARKET.catalog.instances[::-1])
    other = Market(catalog=market)
    assert compile_pipeline(again, requests="dynamic", market=other, queue="research") == ir


def test_every_parameter_is_described_and_defaults_to_the_plan(ir: str) -> None:
    pipeline = next(yaml.safe_load_all(ir))
    parameters = pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"store", *default_values(SPEC)}
    for name, parameter in parameters.items():
        assert parameter["description"], name
        assert parameter["isOptional"] is True
    assert parameters["epochs"]["defaultValue"] == 3
    assert parameters["budget_usd"]["defaultValue"] == 5.0
    assert parameters["deadline"]["defaultValue"] == "2h"
    assert parameters["train_uri"]["defaultValue"] == "s3://corpus/train.conll"
    assert parameters["epochs"]["parameterType"] == "NUMBER_INTEGER"


def test_later_tasks_take_every_request_from_decide_in_the_types_kfp_reads(ir: str) -> None:
    pipeline, platform = yaml.safe_load_all(ir)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    outputs = pipeline["components"]["comp-decide-requests"]["outputDefinitions"]["parameters"]
    types = {"selector": "STRUCT", "tolerations": "LIST"}
    assert set(outputs) == {f"{kind}_{what}" for kind in KINDS for what in OUTPUTS}
    for name, output in outputs.items():
        assert output["parameterType"] == types.get(name.split("_")[1], "STRING"), name
    seen = set()
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"].values()
    for task in tasks:
        name = task["taskInfo"]["name"]
        kind = name.split("-")[0]
        label = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        resources = pipeline["deploymentSpec"]["executors"][label]["container"]["resources"]
        if kind not in KINDS:
            assert resources["resourceCpuRequest"] == 1.9 or "{{" not in str(resources)
            continue
        seen.add(kind)
        channel = "{{$.inputs.parameters['pipelinechannel--decide-requests-%s_%s']}}"
        assert resources == {
            "resourceCpuRequest": channel % (kind, "cpu"),
            "resourceMemoryRequest": channel % (kind, "memory"),
            "resourceMemoryLimit": channel % (kind, "memory"),
            "accelerator": {
                "resourceType": channel % (kind, "gpu"),
                "resourceCount": channel % (kind, "gpus"),
            },
        }
        pod = executors[label]
        source = {"producerTask": "decide-requests", "outputParameterKey": f"{kind}_selector"}
        assert pod["nodeSelector"] == {"nodeSelectorJson": {"taskOutputParameter": source}}
        source = {"producerTask": "decide-requests", "outputParameterKey": f"{kind}_tolerations"}
        assert pod["tolerations"] == [{"tolerationJson": {"taskOutputParameter": source}}]
        assert task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"] == (
            f'{{"decided":true,"step":"{name}"}}'
        )
    assert seen == set(KINDS)


def test_time_outs_and_volumes_are_compiled_with_room() -> None:
    _, executors = dynamic()
    train = PLAN.step("train")
    assert executors["exec-train"]["activeDeadlineSeconds"] == str(HEADROOM * train.timeout_s)
    mounts = {m["mountPath"]: m["sizeLimit"] for m in executors["exec-train"]["emptyDirMounts"]}
    assert mounts == {"/dev/shm": "2304Mi", "/tmp": f"{HEADROOM * 40 * 1024}Mi"}
    small = {m["mountPath"] for m in executors["exec-place"]["emptyDirMounts"]}
    assert small == {"/tmp"}


def test_a_trainjob_pipeline_hands_the_launch_to_decide() -> None:
    steps = tuple(dataclasses.replace(s, nodes=2) if s.step == "train" else s for s in PLAN.steps)
    plan = dataclasses.replace(PLAN, steps=steps)
    text = compile_pipeline(plan, requests="dynamic", market=MARKET, queue="research")
    arguments = decide_arguments(text)
    assert arguments["limits"]["trainjob"] is True
    assert arguments["launch"]["queue"] == "research"
    assert arguments["nodes"]["quotas"] == []
    assert "comp-train-nodes" in next(yaml.safe_load_all(text))["components"]
    handed = grants(levelled(plan), trainjob=True)
    assert handed["train_gpus"] == "0"
    assert handed["train_cpu"] == handed["place_cpu"]


# -- the node set --------------------------------------------------------------------------------


def test_node_set_is_the_decided_place_at_the_reviewed_prices() -> None:
    document = json.loads(json.dumps(node_set(PLAN, MARKET.catalog)))
    made = catalog_of(document)
    names = [(i.region, i.name) for i in made.instances]
    # m6i.large is sold in two regions and the sample plan names none: both are places.
    assert ("us-east-1", "g5.12xlarge") in names
    known = {(i.region, i.name): i for i in MARKET.catalog.instances}
    assert {(i.region, i.name): i for i in made.instances} == known
    assert made.quota(made.instances[0]) == 1  # no TrainJob was compiled: one node
    label = "topology.kubernetes.io/region"
    steps = tuple(
        dataclasses.replace(s, node_selector={**s.node_selector, label: "us-east-1"})
        for s in PLAN.steps
    )
    one = node_set(dataclasses.replace(PLAN, steps=steps), MARKET.catalog)
    assert {row[1] for row in one["rows"]} == {"us-east-1"}


def test_a_plan_for_this_machine_has_no_node_set() -> None:
    steps = tuple(dataclasses.replace(step, node="here") for step in PLAN.steps)
    with pytest.raises(InfeasiblePlanError, match="need nodes to choose from"):
        compile_pipeline(dataclasses.replace(PLAN, steps=steps), requests="dynamic")


def test_own_prices_reach_the_static_decide_step_too() -> None:
    assert "nodes" not in decide_arguments(compile_pipeline(PLAN, market=Market()))
    assert "nodes" in decide_arguments(compile_pipeline(PLAN, market=MARKET))


def test_a_calibrated_plan_still_holds_where_only_its_factors_travel() -> None:
    factors = {step.step: 2.0 for step in PLAN.steps}
    calibrated = with_factors(PLAN, factors)
    assert calibrated.seconds.value == pytest.approx(2 * PLAN.seconds.value)
    assert calibrated.step("train").timeout_s == 2 * 1800 - 1200
    assert with_factors(PLAN, {}) is PLAN
    plan = dataclasses.replace(calibrated, calibration={"factors": factors})
    arguments = decide_arguments(compile_pipeline(plan))
    assert arguments["factors"] == factors
    again = with_factors(PLAN, arguments["factors"])
    assert compare(arguments["planned"], again, tolerance=0.25)["holds"]
    assert not compare(arguments["planned"], PLAN, tolerance=0.25)["holds"]


# -- parameters ----------------------------------------------------------------------------------


def test_defaults_leave_the_spec_as_it_is() -> None:
    assert with_values(SPEC, {}).document == SPEC
    assert with_values(SPEC, default_values(SPEC)).document == SPEC


def test_values_land_in_the_spec() -> None:
    spec = with_values(
        SPEC,
        {
            "train_uri": "s3://corpus/more.conll", "epochs": 7, "learning_rate": "3e-5",
            "deadline": "", "budget_usd": 0.0, "capacity": "spot", "max_quality_drop": 0.02,
            "seed": 4,
        },
    )  # fmt: skip
    assert spec.data.train.uri == "s3://corpus/more.conll"
    assert spec.data.test.uri == "s3://corpus/test.conll"
    assert (spec.training.epochs, spec.training.seed, spec.training.learning_rate) == (7, 4, 3e-5)
    assert (spec.objective.deadline, spec.objective.budget_usd) == (None, None)
    assert spec.objective.capacity == ["spot"]
    search = with_values(SPEC, {"learning_rate": '{"search": 4}'}).training.learning_rate
    assert getattr(search, "search", None) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "parameter epochs 0: Input should be greater than 0"),
        ({"deadline": "soon"}, "parameter deadline 'soon': 'soon' is not a duration"),
        ({"capacity": "spott"}, "parameter capacity 'spott'"),
        ({"capacity": " , "}, "parameter capacity"),
        ({"learning_rate": "fast"}, "parameter learning_rate 'fast'"),
        ({"learning_rate": "-1"}, "parameter learning_rate '-1'"),
        ({"max_quality_drop": 1.5}, "parameter max_quality_drop 1.5"),
        ({"budget_usd": -1.0}, "parameter budget_usd -1.0"),
        ({"budget_usd": float("nan")}, "parameter budget_usd nan"),
        ({"train_uri": " "}, "parameter train_uri is empty"),
        ({"test_uri": "https://u:hunter2@x/t.csv"}, "parameter test_uri: the URI carries a cred"),
        ({"seed": -1}, "parameter seed -1"),
        ({"colour": "red"}, "no parameter 'colour'"),
    ],
)
def test_values_that_make_no_spec_name_their_parameter(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        with_values(SPEC, values)
    assert message in caught.value.message
    assert "hunter2" not in caught.value.message


def test_text_of_a_command_line_gets_the_types_of_the_pipeline() -> None:
    assert from_text({"epochs": "5", "budget_usd": "2", "deadline": "1h"}, SPEC) == {
        "epochs": 5, "budget_usd": 2.0, "deadline": "1h",
    }  # fmt: skip
    with pytest.raises(SpecError, match="parameter epochs: 'five' is not a whole number"):
        from_text({"epochs": "five"}, SPEC)


def test_relative_data_and_models_are_located_at_compile_time() -> None:
    ingest, train = PLAN.step("ingest"), PLAN.step("train")
    changed = {
        "ingest": dataclasses.replace(ingest, arguments={"data": {"train": {"uri": "/data/a"}}}),
        "train": dataclasses.replace(train, arguments={"model": {"config": "/models/m"}}),
    }
    steps = tuple(changed.get(step.step, step) for step in PLAN.steps)
    spec = located_spec(dataclasses.replace(PLAN, steps=steps))
    assert spec["data"]["train"]["uri"] == "/data/a"
    assert spec["model"] == {"id": None, "config": "/models/m"}


def test_ingest_reads_the_data_of_the_run() -> None:
    compiled = {"step": "ingest", "arguments": {
        "data": {"train": {"uri": "a"}, "test": {"fraction": 0.1}, "format": "conll"}, "seed": 0,
    }}  # fmt: skip
    config = ingest_with(
        json.dumps(compiled), train_uri="b", validation_uri="", test_uri=" c ", seed=3
    )
    assert json.loads(config)["arguments"] == {
        "data": {"train": {"uri": "b"}, "test": {"uri": "c"}, "format": "conll"}, "seed": 3,
    }  # fmt: skip


# -- what decide hands on ------------------------------------------------------------------------


def test_every_variant_gets_what_the_largest_needs() -> None:
    big = Resources(cpu_millicores=1000, memory_bytes=5 * GIB, ephemeral_bytes=9 * GIB)
    steps = tuple(
        dataclasses.replace(step, resources=big) if step.step == "compress-prune50-int8" else step
        for step in PLAN.steps
    )
    plan = levelled(dataclasses.replace(PLAN, steps=steps))
    for name in ("compress-fp32", "compress-prune50-int8"):
        assert plan.step(name).resources.memory_bytes == 5 * GIB
        assert plan.step(name).resources.cpu_millicores == 1900
    handed = grants(plan, trainjob=False)
    assert handed["compress_memory"] == "5120Mi"
    assert handed["train_gpus"] == "1"
    assert handed["place_gpus"] == "0"
    assert handed["train_selector"] == {"node.kubernetes.io/instance-type": "g5.xlarge"}
    assert [taint["key"] for taint in handed["train_tolerations"]] == ["nvidia.com/gpu"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timeout_s": 4 * 1800 + 60}, "train needs a time-out of 7260 s, compiled a time-out of"),
        ({"shm_bytes": 5 * GIB}, "train needs 5120Mi of /dev/shm, compiled 2304Mi of /dev/shm"),
        ({"ephemeral_bytes": 200 * GIB}, "train needs 204800Mi of /tmp, compiled 163840Mi"),
        ({"timeout_s": 4 * 1800, "ephemeral_bytes": 160 * GIB}, None),
    ],
)
def test_needs_beyond_the_compiled_limits_are_named(
    change: dict[str, int], message: str | None
) -> None:
    limits = limits_of(with_headroom(levelled(PLAN)))
    train = PLAN.step("train")
    resources = {k: v for k, v in change.items() if k != "timeout_s"}
    grown = dataclasses.replace(
        train,
        timeout_s=change.get("timeout_s", train.timeout_s),
        resources=dataclasses.replace(train.resources, **resources),
    )
    steps = tuple(grown if step.step == "train" else step for step in PLAN.steps)
    found = beyond(dataclasses.replace(PLAN, steps=steps), limits)
    assert (found[0].startswith(message) and len(found) == 1) if message else not found


def test_a_step_runs_with_what_decide_left_for_it(tmp_path: Any) -> None:
    store = Store(Tiers.under(tmp_path))
    config = {"step": "place", "arguments": {"epochs": 9}, "plan_hash": "p", "requested": {}}
    store.put_json(f"runs/run-1/{DECIDED}/place.json", config)
    seen: list[dict[str, Any]] = []

    def work(context: Any) -> str:
        seen.append(context.arguments)
        folder = context.folder("out")
        (folder / "a.txt").write_text("a")
        return str(context.put(folder, kind="dataset"))

    asks = json.dumps({"step": "place", "decided": True})
    where = {"inputs": {}, "store": store.tiers.to_json()}
    execute("place", work, config=asks, run_id="run-1", **where)
    assert seen == [{"epochs": 9}]
    with pytest.raises(StepError, match="decide step of run run-2 left nothing for place"):
        execute("place", work, config=asks, run_id="run-2", **where)
    # The receipt of a run that never came to a decision has the compiled plan.
    own = json.dumps({**config, "arguments": {"epochs": 3}, "decided": True})
    execute("place", work, config=own, run_id="run-3", **where)
    assert seen[-1] == {"epochs": 3}


# -- submit --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, str]:
    """A plan of the cost model, with data that everybody has, on nodes at fixed prices."""
    spec = sample_spec().model_copy(
        update={"data": sample_spec(SYNTHETIC).data, "storage": sample_spec(SYNTHETIC).storage}
    )
    plan = make_plan(spec, catalog=MARKET.catalog)
    return plan, compile_pipeline(plan, requests="dynamic", market=MARKET)


SYNTHETIC = """\
name: newsroom-ner
task: token-classification
model: {id: minilm-l6}
data:
  train: {uri: "synthetic://ner/train?seed=17"}
  validation: {uri: "synthetic://ner/validation?seed=17"}
  test: {uri: "synthetic://ner/test?seed=17"}
  format: conll
"""


def test_parameters_make_another_run_with_its_own_prediction(planned: tuple[Plan, str]) -> None:
    plan, text = planned
    base = submission_of(plan, text)
    same, none = with_parameters(base, text, {})
    assert (same, none) == (base, {})
    made, values = with_parameters(base, text, {"epochs": "9", "budget_usd": "3"})
    assert values == {"epochs": 9, "budget_usd": 3.0}
    assert made.fingerprint != base.fingerprint
    assert made.budget_usd == 3.0
    assert made.predicted_seconds > 1.3 * base.predicted_seconds
    elsewhere, store = with_parameters(base, text, {"store": "{}"})
    assert store == {"store": "{}"}
    assert elsewhere.fingerprint != base.fingerprint


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ({"epoch": "3"}, SpecError, "no parameter 'epoch'"),
        ({"epochs": "0"}, SpecError, "parameter epochs 0"),
        ({"budget_usd": "0.0001"}, InfeasiblePlanError, "objective.budget_usd"),
        ({"epochs": "1000", "deadline": "10m"}, InfeasiblePlanError, "objective.deadline"),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_are_refused_before_a_run_is_created(
    planned: tuple[Plan, str], texts: dict[str, str], error: type[Exception], message: str
) -> None:
    plan, text = planned
    with pytest.raises(error) as caught:
        with_parameters(submission_of(plan, text), text, texts)
    assert message in str(caught.value)


def test_training_is_bought_faster_to_keep_its_compiled_time_out(planned: tuple[Plan, str]) -> None:
    arguments = decide_arguments(planned[1])
    many = {"epochs": 20, "deadline": "40h"}

    def decided(timeout_s: int) -> Plan:
        train = {**arguments["limits"]["steps"]["train"], "timeout_s": timeout_s}
        steps = {**arguments["limits"]["steps"], "train": train}
        return decide_again({**arguments, "limits": {**arguments["limits"], "steps": steps}}, many)

    patient, quick = decided(10**6), decided(5000)
    assert patient.step("train").timeout_s > 5000 >= quick.step("train").timeout_s
    assert patient.step("train").node != quick.step("train").node
    assert quick.usd
    assert patient.usd
    assert quick.usd.value > patient.usd.value
    assert quick.spec["objective"]["deadline"] == "40h"
    with pytest.raises(
        InfeasiblePlanError, match=r"train needs a time-out of .* compiled .* 1260 s"
    ):
        decided(1260)


def test_static_pipelines_have_no_parameters_but_the_store() -> None:
    text = compile_pipeline(PLAN)
    assert not is_dynamic(text)
    with pytest.raises(SpecError) as caught:
        with_parameters(submission_of(PLAN, text), text, {"epochs": "3"})
    assert "--requests dynamic" in str(caught.value.remedy)


def test_dynamic_and_static_are_different_runs_and_versions(ir: str) -> None:
    text = compile_pipeline(PLAN)
    assert submission_of(PLAN, text).fingerprint != submission_of(PLAN, ir).fingerprint
    assert version_name("a", text) != version_name("a", ir)


def test_the_budget_guard_follows_what_the_run_decided(tmp_path: Any) -> None:
    tiers = Tiers.under(tmp_path)
    text = yaml.safe_dump(
        {"root": {"inputDefinitions": {"parameters": {"store": {"defaultValue": tiers.to_json()}}}}}
    )
    base = submission_of(PLAN, compile_pipeline(PLAN))
    assert _as_decided("run-1", base, text) == base
    dearer = dataclasses.replace(
        PLAN, steps=tuple(dataclasses.replace(s, usd=s.usd.scaled(10)) for s in PLAN.steps if s.usd)
    )
    Store(tiers).put_json(
        f"runs/run-1/{DECIDED}/report.json", {"arguments": {"plan": dearer.to_json()}}
    )
    decided = _as_decided("run-1", base, text)
    assert sum(s.usd or 0 for s in decided.steps) == pytest.approx(
        10 * sum(s.usd or 0 for s in base.steps)
    )
    assert decided.budget_usd == base.budget_usd
