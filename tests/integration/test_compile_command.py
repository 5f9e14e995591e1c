"""`suanli compile`: the plan that was reviewed is the plan that is compiled."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support import REPOSITORY, suanli

SPEC = REPOSITORY / "pipelines" / "examples" / "newsroom-ner.yaml"


def test_a_reviewed_plan_gives_the_same_pipeline_as_planning_again(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(suanli("plan", SPEC, "--json").stdout)
    done = suanli("compile", SPEC, "--plan", plan, "-o", tmp_path / "reviewed.yaml")
    assert done.returncode == 0, done.stderr
    done = suanli("compile", SPEC, "-o", tmp_path / "again.yaml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reviewed.yaml").read_bytes() == (tmp_path / "again.yaml").read_bytes()


def test_a_plan_of_another_spec_is_refused(tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.yaml"
    plan.write_text(suanli("plan", SPEC, "--json").stdout)
    other.write_text(SPEC.read_text().replace("epochs: 3", "epochs: 4"))
    done = suanli("compile", other, "--plan", plan, "-o", tmp_path / "out.yaml")
    assert done.returncode == 2
    assert "another spec" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.yaml").exists()


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    for text in ("{}", "[]", "not json", '{"schema_version": 1}'):
        (tmp_path / "plan.json").write_text(text)
        done = suanli("compile", SPEC, "--plan", tmp_path / "plan.json", "-o", tmp_path / "o.yaml")
        assert done.returncode == 2, text
        assert "Traceback" not in done.stderr, text
        assert not (tmp_path / "o.yaml").exists()


def test_dynamic_requests_in_both_formats(tmp_path: Path) -> None:
    for form in ("ir", "manifest"):
        out = tmp_path / f"{form}.yaml"
        done = suanli("compile", SPEC, "--requests", "dynamic", "--format", form, "-o", out)
        assert done.returncode == 0, done.stderr
    pipeline, platform = yaml.safe_load_all((tmp_path / "ir.yaml").read_text())
    kept, version = yaml.safe_load_all((tmp_path / "manifest.yaml").read_text())
    assert (kept["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["spec"]["pipelineSpec"] == pipeline
    assert version["spec"]["platformSpec"] == platform
