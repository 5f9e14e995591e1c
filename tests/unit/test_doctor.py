"""The doctor: what it finds in this environment, and what it says when something is wrong."""

from __future__ import annotations

import io
import json
import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from components.storage import Tiers
from pipelines import doctor, doctor_remote
from pipelines.doctor import Finding
from pipelines.kfp_api import Connection
from pipelines.terminal import print_findings
from tests.kfp_server import KfpServerForTests
from tests.support import suanli


def states(findings: object) -> list[str]:
    return [finding.state for finding in findings]  # type: ignore[attr-defined]


def test_this_environment_is_fit(tmp_path: Path) -> None:
    findings = doctor.examine(workdir=tmp_path / "not" / "yet")
    assert [f for f in findings if f.state == "error"] == []
    areas = {finding.area for finding in findings}
    assert areas >= {"python", "packages", "machine", "disk", "gpu", "prices", "cluster"}
    assert not (tmp_path / "not").exists()
    assert doctor.exit_code(findings) == 0


def test_command_prints_json_and_exits_with_zero() -> None:
    done = suanli("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert {"area", "state", "found", "remedy"} == set(json.loads(done.stdout)[0])


def test_missing_and_wrong_packages_are_named() -> None:
    wrong = doctor._wrong_packages(
        ["no-such-thing==1", "pytest==0.1", "numpy>=1", "other; extra == 'dev'"]
    )
    assert wrong[0] == "no-such-thing is missing"
    assert wrong[1].startswith("pytest is ")
    assert len(wrong) == 2


def test_two_onnx_runtimes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    findings = [f for f in doctor.check_packages() if "CUDA disappears" in f.found]
    assert states(findings) == ["error"]
    assert "uninstall" in findings[0].remedy


def test_work_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    findings = list(doctor.check_disk(tmp_path))
    assert findings[0].state == "error"
    assert "--workdir" in findings[0].remedy
    assert doctor.exit_code(findings) == 2


def test_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["NVIDIA L4, 23034 MiB, 580.1", "False", "True"])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor, "_child", lambda command: next(answers))
    findings = list(doctor.check_gpu())
    assert states(findings) == ["ok", "error"]
    assert "torch cannot use the GPU" in findings[1].found


def test_old_prices_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cost import catalog

    monkeypatch.setattr(catalog, "STALE_AFTER_DAYS", -1)
    (finding,) = doctor.check_prices()
    assert finding.state == "warning"
    assert "catalog update" in finding.remedy
    date.fromisoformat(catalog.load_catalog().date)


def test_a_check_that_breaks_does_not_stop_the_others() -> None:
    def check_moon() -> list[Finding]:
        raise RuntimeError("eclipse")

    (finding,) = doctor._guarded(check_moon)
    assert (finding.area, finding.state) == ("moon", "warning")
    assert "eclipse" in finding.found


def test_no_cluster_is_fine_and_a_dead_one_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert states(doctor_remote.check_cluster()) == ["ok"]
    server = "https://127.0.0.1:9"  # the discard port: refused at once
    (tmp_path / "config").write_text(
        f"apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n"
        f"    server: {server}\ncontexts:\n- name: c\n  context: {{cluster: c, user: c}}\n"
        "users:\n- name: c\n  user: {token: x}\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (finding,) = doctor_remote.check_cluster()
    assert finding.state == "warning"
    assert "does not answer" in finding.found


def test_api_groups_and_gpus_of_a_cluster() -> None:
    found = list(doctor_remote._groups({"argoproj.io", "kueue.x-k8s.io"}))
    assert states(found) == ["ok"] * 5
    missing = [f.found.partition(":")[0] for f in found if f.found.startswith("no ")]
    assert missing[0] == "no pipelines.kubeflow.org"
    assert states(doctor_remote._groups(set()))[0] == "warning"
    nodes = [
        SimpleNamespace(status=SimpleNamespace(allocatable={"nvidia.com/gpu": "4"})),
        SimpleNamespace(status=SimpleNamespace(allocatable=None)),
    ]
    assert doctor_remote._nodes(nodes).found == "2 nodes, 4 GPUs allocatable"


def test_kfp_server_that_answers_refuses_or_is_not_there(tmp_path: Path) -> None:
    assert list(doctor_remote.check_kfp(None)) == []
    with KfpServerForTests() as server:
        where = Connection(host=server.url, namespace="team-a")
        (good,) = doctor_remote.check_kfp(where)
        assert (good.state, "namespace team-a, 0 runs" in good.found) == ("ok", True)
        server.state.forbidden = {("GET", "/runs")}
        (refused,) = doctor_remote.check_kfp(where)
        assert refused.state == "error"
        assert refused.remedy
    (gone,) = doctor_remote.check_kfp(where)
    assert gone.state == "error"
    assert gone.remedy


def test_tiers_are_written_and_read_back(tmp_path: Path) -> None:
    good = list(doctor_remote.check_tiers(Tiers.under(tmp_path)))
    assert states(good) == ["ok"] * 3


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs /proc")
def test_tier_that_refuses_names_itself() -> None:
    tiers = Tiers(hot="/proc/suanli/hot", warm="/proc/suanli/warm", cold="/proc/suanli/cold")
    findings = list(doctor_remote.check_tiers(tiers))
    assert states(findings) == ["error"] * 3
    assert findings[0].found.startswith("hot /proc/suanli/hot")


def test_findings_read_as_a_list_with_remedies() -> None:
    to = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    print_findings(
        [
            Finding(area="gpu", state="error", found="[bad]\x1b[2J", remedy="fix"),
            Finding(area="disk", state="ok", found="fine"),
        ],
        to=to,
    )
    text = to.file.getvalue()  # type: ignore[attr-defined]
    assert "✗  gpu   [bad]\ufffd[2J" in text
    assert "→ fix" in text
    assert "1 error, 0 warnings" in text
