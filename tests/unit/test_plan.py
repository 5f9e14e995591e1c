"""The plan as its readers get it: steps, arguments, requests, totals, errors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from components.contract import InfeasiblePlanError, SpecError
from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import load_catalog
from pipelines.cost.choose import choose
from pipelines.cost.coefficients import constants_hash
from pipelines.cost.job import make_job
from pipelines.cost.profile import profile_of
from pipelines.cost.search import build_space
from pipelines.plan import Plan, make_plan, plan_from_json
from pipelines.spec import Spec, parse_spec
from tests.machines import measured_here

NEWSROOM = Path(__file__).parents[2] / "pipelines" / "examples" / "newsroom-ner.yaml"

REMOTE = """\
name: remote
task: text-classification
model: {id: roberta-base}
data:
  train: {uri: "s3://corpus/train.csv"}
  profile: {rows: 200000, tokens: 12000000}
training: {epochs: 2, max_length: 256, global_batch: 32}
"""


def spec_of(text: str, folder: Path = Path("/data")) -> Spec:
    return parse_spec(text, source="spec.yaml", folder=folder)


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    cache = measured_here(tmp_path_factory.mktemp("cache"))
    return make_plan(spec_of(NEWSROOM.read_text()), here=True, cache_dir=cache)


@pytest.fixture(scope="module")
def remote() -> Plan:
    return make_plan(spec_of(REMOTE))


def test_steps_are_named_and_ordered_by_variant(newsroom: Plan) -> None:
    assert [step.step for step in newsroom.steps] == [
        "ingest", "decide", "place", "train",
        "compress-fp32", "export-fp32", "evaluate-fp32",
        "compress-int8-static", "export-int8-static", "evaluate-int8-static",
        "select", "publish", "report",
    ]  # fmt: skip
    assert newsroom.variants == ("fp32", "int8-static")


def test_variants_of_the_spec_are_honoured_with_the_reference_first(tmp_path: Path) -> None:
    text = NEWSROOM.read_text().replace("[fp32, int8-static]", "[prune50+int8, fp32]")
    plan = make_plan(spec_of(text), here=True, cache_dir=measured_here(tmp_path))
    assert plan.variants == ("fp32", "prune50+int8")
    assert plan.step("export-prune50-int8").arguments["variant"] == "prune50+int8"


def test_a_search_is_priced_and_bounded_candidate_by_candidate(tmp_path: Path) -> None:
    text = NEWSROOM.read_text().replace("[fp32, int8-static]", "[distill4+prune50+int8]")
    plan = make_plan(spec_of(text), here=True, cache_dir=measured_here(tmp_path))
    step = plan.step("compress-distill4-prune50-int8")
    budget, search = step.arguments["budget_s"], step.arguments["search"]
    assert [one["cut"] for one in search] == ["distill4", "prune50"]
    planned = sum(
        one["scoring_s"]
        + one["finish_s"]
        + sum(s * -(-one["ways"] // 2**n) for n, s in enumerate(one["round_s"]))
        for one in search
    )
    assert 0 < planned < budget < step.seconds.value  # validation; then start and transfer
    assert step.seconds.high / step.seconds.value <= 1.3
    assert step.timeout_s > budget
    # Nothing is searched for a copy.
    assert "budget_s" not in plan.step("compress-fp32").arguments


def test_auto_stays_within_its_time_and_listed_variants_do_not(tmp_path: Path) -> None:
    cache = measured_here(tmp_path)
    text = NEWSROOM.read_text().replace("s: 3", "s: 60")
    auto, listed = (
        make_plan(
            spec_of(text.replace("[fp32, int8-static]", wanted)),
            here=True, cache_dir=cache,
        )
        for wanted in ("auto", "[prune50+int8-static]")
    )  # fmt: skip
    names = [s.step for s in auto.steps if s.kind == "compress" and "search" in s.arguments]
    assert names == ["compress-prune50-int8-static"]
    assert auto.step(names[0]).arguments["budget_s"] == pytest.approx(360, rel=0.02)
    assert listed.step(names[0]).arguments["budget_s"] > 400


def test_rounding_is_trained_away_for_one_8_bit_graph_only(tmp_path: Path) -> None:
    """Plain int8 beside int8-static is as large and slower: training it would be for nothing."""
    cache, checked = measured_here(tmp_path), {}
    for wanted in ("[int8, embed4+int8-static]", "[int8]"):
        text = NEWSROOM.read_text().replace("[fp32, int8-static]", wanted)
        plan = make_plan(spec_of(text), here=True, cache_dir=cache)
        steps = [s for s in plan.steps if s.kind == "compress"]
        checked[wanted] = [s.step for s in steps if "max_quality_drop" in s.arguments]
        assert all("budget_s" in s.arguments for s in steps if s.step in checked[wanted])
    assert list(checked.values()) == [["compress-embed4-int8-static"], ["compress-int8"]]


def test_a_cut_that_the_model_has_no_layers_for_is_refused_at_once(tmp_path: Path) -> None:
    text = NEWSROOM.read_text().replace("[fp32, int8-static]", "[distill6]")
    with pytest.raises(SpecError, match="distill6 of a model with 6 layers"):
        make_plan(spec_of(text), here=True, cache_dir=measured_here(tmp_path))


def test_arguments_follow_the_contract(newsroom: Plan) -> None:
    ingest = newsroom.step("ingest").arguments
    assert ingest["data"]["train"] == {"uri": "synthetic://ner/train?seed=17"}
    assert {"task", "name", "model", "data", "max_length", "seed"} <= set(ingest)
    training = newsroom.step("train").arguments["training"]
    assert training["micro_batch"] * training["grad_accum"] == training["global_batch"] == 32
    assert training["learning_rate"] == "auto"
    assert training["precision"] in ("fp32", "bf16")
    assert {"processes", "nodes", "sharding", "activation_checkpointing", "packing"} <= set(
        training
    )
    evaluate = newsroom.step("evaluate-int8-static").arguments
    assert evaluate["split"] == "validation"
    assert evaluate["usd_per_hour"] is None
    select = newsroom.step("select").arguments
    assert select["variants"] == ["fp32", "int8-static"]
    assert select["p99_latency_ms"] == 50
    assert newsroom.step("place").arguments == {"tiers": ["hot"]}


def test_money_of_this_machine_is_unknown_unless_stated(newsroom: Plan, tmp_path: Path) -> None:
    assert newsroom.usd is None
    assert all(step.usd is None for step in newsroom.steps)
    text = NEWSROOM.read_text().replace("budget_usd: 5", "budget_usd: 5, here_usd_per_hour: 0.36")
    plan = make_plan(spec_of(text), here=True, cache_dir=measured_here(tmp_path))
    assert plan.usd is not None
    assert plan.usd.value == pytest.approx(plan.seconds.value * 0.0001)


def test_plan_round_trips_and_is_deterministic(newsroom: Plan, remote: Plan) -> None:
    for plan in (newsroom, remote):
        again = plan_from_json(json.loads(json.dumps(plan.to_json())))
        assert again == plan
        assert again.hash == plan.hash
    assert make_plan(spec_of(REMOTE)).hash == remote.hash


def test_everything_runs_here_when_asked(newsroom: Plan) -> None:
    assert {(step.node, step.capacity) for step in newsroom.steps} == {("here", "here")}
    assert all(not step.node_selector and not step.tolerations for step in newsroom.steps)


@pytest.mark.parametrize(
    "extra",
    [
        "",
        "objective: {deadline: 40m}\n",
        "objective: {minimize: time}\n",
        "objective: {capacity: [spot]}\n",
        "serving: {target: gpu}\n",
        "storage: {hot: 's3://bucket/hot'}\n",
    ],
)
def test_no_step_asks_for_more_than_its_node_offers(extra: str) -> None:
    plan = make_plan(spec_of(REMOTE + extra))
    nodes = {(i.name, i.region): i for i in load_catalog().instances}
    for step in plan.steps:
        node = nodes[step.node, step.node_selector["topology.kubernetes.io/region"]]
        asked = step.resources
        assert asked.cpu_millicores <= node.alloc_cpu_millicores - 250
        assert asked.memory_bytes <= node.alloc_memory_bytes - 300 * 2**20
        assert asked.ephemeral_bytes <= max(node.alloc_ephemeral_bytes, node.local_nvme_bytes)
        assert asked.shm_bytes < asked.memory_bytes
        assert asked.gpu_count <= node.gpu_count
        assert bool(asked.gpu_count) == bool(node.gpu)
        assert step.timeout_s > step.seconds.high
        keys = {t["key"] for t in step.tolerations}
        assert ("nvidia.com/gpu" in keys) == bool(asked.gpu_count)
        assert len(keys) >= (step.capacity == "spot")


def test_cheap_steps_stay_off_gpu_nodes() -> None:
    plan = make_plan(spec_of(REMOTE + "objective: {minimize: time}\n"))
    assert plan.step("train").resources.gpu_count
    for step in plan.steps:
        if step.kind != "train":
            assert step.resources.gpu_count == 0
            assert step.node != plan.step("train").node


def test_gpu_target_evaluates_on_a_gpu() -> None:
    plan = make_plan(spec_of(REMOTE + "serving: {target: T4}\n"))
    assert plan.variants == ("fp32", "fp16")
    assert plan.step("evaluate-fp16").resources.gpu_count == 1
    assert plan.step("export-fp16").resources.gpu_count == 0
    assert plan.step("evaluate-fp16").arguments["target"] == "gpu"


def test_steps_add_up_to_the_total(remote: Plan) -> None:
    assert remote.usd is not None
    assert sum(s.usd.value for s in remote.steps if s.usd) == pytest.approx(remote.usd.value)
    assert sum(s.seconds.value for s in remote.steps) == pytest.approx(remote.seconds.value)
    chosen = next(a for a in remote.alternatives if a.chosen)
    assert chosen.usd == pytest.approx(remote.usd.value)
    assert chosen.seconds == pytest.approx(remote.seconds.value)


def test_alternatives_have_reasons_and_the_front_is_one(remote: Plan) -> None:
    assert len(remote.alternatives) <= 40
    assert sum(a.chosen for a in remote.alternatives) == 1
    assert all(a.reason for a in remote.alternatives)
    front = [a for a in remote.alternatives if a.on_front]
    for one in front:
        for other in remote.alternatives:
            better = other.seconds < one.seconds and other.usd < one.usd  # type: ignore[operator]
            assert not (better and other.risk <= one.risk), (one.label, other.label)


def test_a_million_candidates_in_two_seconds() -> None:
    spec = spec_of(REMOTE)
    job = make_job(spec, profile_of(spec))
    start = time.process_time()
    space = build_space(job, load_catalog())
    choose(space)
    spent = time.process_time() - start
    assert space.counts["considered"] >= 1_000_000
    assert spent < 2.0


def manifest(rows: int, length: int) -> dict[str, Any]:
    def split(n: int) -> dict[str, Any]:
        return {
            "rows": n, "words": n * length, "tokens": n * length,
            "length_histogram": {str(length): n}, "shards": [{"bytes": n * length}],
        }  # fmt: skip

    return {"splits": {"train": split(rows), "validation": split(100), "test": split(100)}}


def test_the_measured_profile_replaces_the_probe(remote: Plan) -> None:
    plan = make_plan(spec_of(REMOTE), observed=manifest(1000, 40))
    assert plan.profile["train"]["rows"] == 1000
    assert plan.profile["train"]["source"] == "manifest"
    assert plan.step("train").seconds.value < remote.step("train").seconds.value


def test_unknown_data_is_assumed_with_a_wide_interval() -> None:
    text = REMOTE.replace("  profile: {rows: 200000, tokens: 12000000}\n", "")
    plan = make_plan(spec_of(text))
    train = plan.step("train").seconds
    assert train.high / train.value > 2
    assert any("assumed" in note for note in plan.notes)


def test_first_order_is_in_seconds(remote: Plan) -> None:
    terms = remote.first_order["terms"]
    batches = terms["samples"] / (terms["batch"] * terms["workers"])
    seconds = batches * terms["batch_seconds"]
    seconds += terms["parameter_bytes"] / (terms["bytes_per_second"] * terms["workers"])
    assert remote.first_order["seconds"] == pytest.approx(seconds)
    assert "T_total = D / (B n) * T_batch + P / (S n)" in remote.first_order["text"]


def test_a_calibration_against_other_constants_is_pointed_out(tmp_path: Path) -> None:
    spec, cache = spec_of(NEWSROOM.read_text()), measured_here(tmp_path)
    plans = {}
    for against in ("older", constants_hash()):
        evidence = {"constants": against}
        learnt = Calibration(effects={}, spreads={}, noise=0.05, evidence=evidence)
        plans[against] = make_plan(spec, here=True, cache_dir=cache, calibration=learnt)
    old, new = plans["older"], plans[constants_hash()]
    assert any("another version" in note for note in old.notes)
    assert not any("another version" in note for note in new.notes)
    assert new.calibration["constants"] == constants_hash()


def test_an_impossible_deadline_here_names_what_would_do(tmp_path: Path) -> None:
    text = NEWSROOM.read_text().replace("deadline: 2h", "deadline: 5s")
    with pytest.raises(
        InfeasiblePlanError, match=r"objective\.deadline: 5s is not enough"
    ) as error:
        make_plan(spec_of(text), here=True, cache_dir=measured_here(tmp_path))
    assert "relax objective.deadline to" in error.value.remedy
    assert error.value.exit_code == 3


def test_unknown_region_and_hardware_are_named() -> None:
    with pytest.raises(InfeasiblePlanError, match=r"objective\.regions") as error:
        make_plan(spec_of(REMOTE + "objective: {regions: [mars-north-1]}\n"))
    assert "us-east-1" in error.value.remedy
    with pytest.raises(InfeasiblePlanError, match=r"objective\.hardware"):
        make_plan(spec_of(REMOTE + "objective: {hardware: abacus}\n"))


def test_unknown_architecture_is_bad_input() -> None:
    with pytest.raises(SpecError, match="architecture of 'nobody/knows-this'"):
        make_plan(spec_of(REMOTE.replace("roberta-base", "nobody/knows-this")))
