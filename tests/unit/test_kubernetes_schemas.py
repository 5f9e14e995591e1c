"""The offline validator itself: it refuses what an API server refuses."""

from __future__ import annotations

import copy

import pytest

from tests.kubernetes_schemas import problems
from tests.support import needs_shared

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}
QUEUE = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "LocalQueue",
    "metadata": {"name": "q"},
    "spec": {"clusterQueue": "suanli"},
}


def test_core_object_is_accepted_and_a_misspelt_field_refused() -> None:
    assert problems(POD) == []
    wrong = copy.deepcopy(POD)
    wrong["spec"]["container"] = []
    assert len(problems(wrong)) == 4


@needs_shared
@pytest.mark.parametrize("change", [{"clusterQeue": "x"}, {"clusterQueue": 3}])
def test_custom_object_is_accepted_and_a_wrong_field_refused(change: dict[str, object]) -> None:
    assert problems(QUEUE) == []
    assert problems({**QUEUE, "spec": {**QUEUE["spec"], **change}})
