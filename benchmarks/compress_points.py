"""The points of benchmarks.compress: our cuts and the peers', made from one tuned model.

Each is kept in a folder of its own with what making it took, and made once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import infer
from benchmarks import infer_routes as routes
from components.compress import repair, search
from components.compress import step as compress
from components.compress.importance import Importance
from components.compress.material import Material, load_material
from components.lib import attention, distil, pruned
from components.lib.modelling import load_model, read_info, read_labels, save_model
from components.storage import Store, Tiers

UNCUT = ("stock int8", "plain int8")
LABELS_ONLY = repair.Weights(task=1.0, logits=0.0, hidden=0.0)
LOGITS_ONLY = repair.Weights(task=0.5, logits=0.5, hidden=0.0)


@contextlib.contextmanager
def budget_clock(clock: str) -> Iterator[None]:
    """Let budgets run by this process's CPU seconds a core, where the machine is shared: what other
    work takes does not count, and a search gets what a quiet machine would give it."""
    if clock == "wall":
        yield
        return
    wall, cores = time.perf_counter, len(os.sched_getaffinity(0))
    time.perf_counter = lambda: time.process_time() / cores
    try:
        yield
    finally:
        time.perf_counter = wall


def make_point(
    name: str, spec: dict[str, Any], subject: routes.Subject, args: argparse.Namespace
) -> Path:
    """Return the folder of the point's model, made now or before."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # for making, not for timing
    folder = args.points_folder / f"{subject.name}-{name.replace(' ', '-')}-{args.seed}"
    if (folder / "made.json").exists() or name in UNCUT:
        return subject.model if name in UNCUT else folder
    folder.mkdir(parents=True, exist_ok=True)
    start, cpu = time.perf_counter(), time.process_time()
    with budget_clock(args.clock):
        if name.startswith(("embed4", "prune", "distill")):
            facts = ours(name, spec, subject, folder, args)
        else:
            facts = peer(name, spec, subject, folder, args)
    facts |= {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    (folder / "made.json").write_text(json.dumps(facts, indent=1))
    print(f"made {name}: {facts['step_s']:.0f} s", flush=True)
    return folder


def ours(
    variant: str,
    spec: dict[str, Any],
    subject: routes.Subject,
    folder: Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Run the compress step and put its model in `folder`; returns what it reports."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Tiers.under(Path(scratch)))
        inputs = {
            "model": store.put_folder(subject.model, kind="model"),
            "dataset": store.put_folder(subject.dataset, kind="dataset"),
        }
        training = {**spec["training"], "global_batch": 32, "precision": "bf16"}
        arguments = {"task": subject.task, "variant": variant, "target": "cpu", "seed": args.seed,
                     "training": training, "budget_s": args.budget}  # fmt: skip
        context = infer.context(store, "compress", arguments, inputs)
        start = time.perf_counter()
        made = store.fetch(compress.run(context), Path(scratch) / "made")
        seconds = time.perf_counter() - start
        for path in made.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    return {"step_s": seconds, "budget_s": args.budget, "phases_s": context.seconds,
            "notes": context.notes, "metrics": context.metrics}  # fmt: skip


def peer(
    name: str,
    spec: dict[str, Any],
    subject: routes.Subject,
    folder: Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Make a peer's model, trained for as long as ours where it trains at all."""
    start = time.perf_counter()
    model = load_model(subject.model, subject.task, attention=attention.PADDED)
    material = load_material(
        subject.dataset, subject.task, subject.model, image_size=0, global_batch=32, seed=args.seed
    )
    method, amount = name.rsplit(" ", 1)
    cut, weights = copy.deepcopy(model), LABELS_ONLY
    if method == "depth cut":
        depth, weights = len(pruned.layers_of(model)), LOGITS_ONLY
        kept = sorted({round((i + 1) * depth / int(amount)) - 1 for i in range(int(amount))})
        pruned.keep_layers(cut, kept)
    elif method == "magnitude":
        by_magnitude(cut, int(amount) / 100)
    else:
        by_torch_pruning(cut, material, int(amount) / 100, args.torch_pruning)
    steps = 0
    if method != "torch-pruning one-shot":
        dtype = repair.compute_dtype("auto")
        teacher = distil.Teacher(copy.deepcopy(model), subject.task, dtype=dtype, keep_bytes=0)
        settings = repair.Settings(dtype=dtype, weights=weights)
        layer_map = list(range(len(pruned.layers_of(cut))))
        student = repair.Student(cut, teacher, material, settings, layer_map=layer_map)
        epochs, an_epoch = spec["training"]["epochs"], material.steps_per_epoch
        end = None if args.budget is None else start + args.budget
        most = epochs * an_epoch if end is None else search.longest(an_epoch, epochs)
        student.advance(repair.linear_decay(most, end))
        steps = student.step
    info = {**read_info(subject.model), "variant": name, "labels": read_labels(subject.model),
            "pruning": pruned.description(cut)}  # fmt: skip
    info.pop("parameters")
    save_model(cut.requires_grad_(True), folder, tokenizer=subject.model, info=info)
    return {"step_s": time.perf_counter() - start, "steps": steps}


def by_magnitude(model: torch.nn.Module, share: float) -> None:
    """Keep in each layer the heads and neurons whose weights are largest."""
    layout, width = pruned.layout_of(model), pruned.head_width(model)
    heads, neurons = [], []
    for layer in pruned.layers_of(model):
        mixed = layer.get_submodule(layout.mixed).weight.detach().square().sum(0)
        narrow = layer.get_submodule(layout.narrow).weight.detach().square().sum(0)
        heads.append(mixed.unflatten(0, (-1, width)).sum(1).double().numpy())
        neurons.append(narrow.double().numpy())
    scores = Importance(heads=heads, neurons=neurons)
    keep = [
        [np.sort(np.argsort(-s)[: max(1, round(len(s) * (1 - share)))]) for s in part]
        for part in (scores.heads, scores.neurons)
    ]
    pruned.shrink(model, keep[0], keep[1])


def by_torch_pruning(
    model: torch.nn.Module, material: Material, share: float, package: Path
) -> None:
    """Let torch-pruning remove heads and neurons (the residual stream keeps its width)."""
    sys.path.insert(0, str(package))
    import torch_pruning as tp

    layout = pruned.layout_of(model)
    layers = pruned.layers_of(model)
    batches = list(material.batches(material.calibration_rows(256)))
    model.set_attn_implementation("eager")
    for batch in batches:
        material.task.loss(model(**batch.inputs).logits, batch).backward()
    heads = {
        layer.get_submodule(name): model.config.num_attention_heads
        for layer in layers
        for name in layout.projections
    }
    prunable = {*heads, *(layer.get_submodule(name) for layer in layers for name in layout.wide)}
    ignored = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding | torch.nn.LayerNorm)
        and module not in prunable
    ]
    example = {"input_ids": batches[0].inputs["input_ids"][:2]}
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=False,
        pruning_ratio=share,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=share,
        ignored_layers=ignored,
        output_transform=lambda output: output.logits.sum(),
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    model.set_attn_implementation(attention.PADDED)
