"""What a reviewer reads in a pull request: the decision, the money, the requests; and their change.

Markdown in a fixed order and rounding, so that two renders differ only where the decision does.
"""

from __future__ import annotations

from pipelines.plan import Alternative, Estimate, Plan, StepPlan

MIB = 1 << 20
MAX_LOST = 5


def decision_markdown(plan: Plan) -> str:
    """Return the decision as a page: totals, requests by step, what else was considered."""
    objective = plan.spec["objective"]
    lines = [
        f"# {plan.name}: the decision",
        "",
        f"{plan.task}; plan `{plan.hash[:12]}`; variants {', '.join(plan.variants)}.",
        "",
        "| | predicted (80 % interval) | limit |",
        "|---|---|---|",
        f"| time | {_seconds(plan.seconds)} | {objective['deadline'] or 'none'} |",
        f"| money | {_usd(plan.usd)} | {_budget(objective['budget_usd'])} |",
        "",
        "## Requests",
        "",
        "| step | node | pods | CPU | memory | GPU | time-out | time | money |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_step_row(step) for step in plan.steps),
    ]
    if plan.alternatives:
        lines += [
            "",
            "## Considered",
            "",
            "| option | time | money | risk | |",
            "|---|---|---|---|---|",
        ]
        lines += [_alternative_row(option) for option in _worth_reading(plan.alternatives)]
    if plan.storage:
        lines += [
            "",
            "## Storage",
            "",
            "| artifact | tier | USD a month | why |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {item['artifact']} | {item['tier']} | {item['usd_per_month']:.4f} "
            f"| {item['reason']} |"
            for item in plan.storage
        ]
    lines += ["", *(f"- {note}" for note in plan.notes)] if plan.notes else []
    return "\n".join(lines) + "\n"


def cost_diff_markdown(before: Plan | None, after: Plan) -> str:
    """Return what changes from `before` to `after` (a new pipeline without `before`), as a comment
    on a pull request."""
    lines = [f"### {after.name}", ""]
    if before is None:
        lines += [f"New: {_seconds(after.seconds)}, {_usd(after.usd)}.", ""]
        return "\n".join(lines)
    lines += [
        "| | before | after | change |",
        "|---|---|---|---|",
        f"| time | {_seconds(before.seconds)} | {_seconds(after.seconds)} "
        f"| {_change(before.seconds, after.seconds)} |",
        f"| money | {_usd(before.usd)} | {_usd(after.usd)} | {_change(before.usd, after.usd)} |",
    ]
    changes = list(_step_changes(before, after))
    if changes:
        lines += ["", "| step | before | after |", "|---|---|---|", *changes]
    else:
        lines += ["", "No step changes its node or its requests."]
    return "\n".join(lines) + "\n"


def _step_changes(before: Plan, after: Plan) -> list[str]:
    old = {step.step: _requests(step) for step in before.steps}
    new = {step.step: _requests(step) for step in after.steps}
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"| {name} | {old.get(name, '–')} | {new.get(name, '–')} |"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _requests(step: StepPlan) -> str:
    resources = step.resources
    gpus = f", {resources.gpu_count} GPU" if resources.gpu_count else ""
    return (
        f"{step.nodes} × {step.node} ({step.capacity}): {resources.cpu_millicores}m, "
        f"{_mebibytes(resources.memory_bytes)}{gpus}"
    )


def _step_row(step: StepPlan) -> str:
    resources = step.resources
    return (
        f"| {step.step} | {step.node} ({step.capacity}) | {step.nodes} "
        f"| {resources.cpu_millicores}m | {_mebibytes(resources.memory_bytes)} "
        f"| {resources.gpu_count or ''} | {step.timeout_s} s | {_seconds(step.seconds)} "
        f"| {_usd(step.usd)} |"
    )


def _alternative_row(option: Alternative) -> str:
    usd = "–" if option.usd is None else f"{option.usd:.4f} USD"
    mark = "**chosen**" if option.chosen else option.reason
    return f"| {option.label} | {option.seconds:.0f} s | {usd} | {option.risk:.0%} | {mark} |"


def _worth_reading(options: tuple[Alternative, ...]) -> list[Alternative]:
    """The choice, the Pareto front, and the best few that lost; plan.json has them all."""
    lost = [option for option in options if not (option.chosen or option.on_front)]
    return [option for option in options if option not in lost[MAX_LOST:]]


def _mebibytes(size_bytes: int) -> str:
    return f"{-(-size_bytes // MIB)}Mi"


def _seconds(estimate: Estimate) -> str:
    return f"{estimate.value:.0f} s ({estimate.low:.0f}–{estimate.high:.0f})"


def _usd(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    return f"{estimate.value:.4f} USD ({estimate.low:.4f}–{estimate.high:.4f})"


def _budget(usd: float | None) -> str:
    return "none" if usd is None else f"{usd:.2f} USD"


def _change(before: Estimate | None, after: Estimate | None) -> str:
    if before is None or after is None or not before.value:
        return "–"
    return f"{after.value / before.value - 1:+.1%}"
