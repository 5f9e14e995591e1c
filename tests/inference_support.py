"""Tiny models, data sets and step contexts for the tests of export to publish."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from components.ingest import step as ingest
from components.lib.modelling import new_model, resolve_tokenizer, save_model
from components.runtime import StepContext
from components.storage import Store, Tiers

MINILM = {"id": "minilm-l6"}
NAMES = {"PER": ["jane", "omar", "li wei"], "LOC": ["oslo", "new york", "kyoto"]}
TEXT = "the market in was very busy when we came back from a long walk with our dog"
FILLERS = TEXT.split()


def make_store(folder: Path) -> Store:
    return Store(Tiers.under(folder))


def make_context(
    store: Store, kind: str, arguments: dict[str, Any], inputs: dict[str, Any]
) -> StepContext:
    """A context as `runtime.execute` makes it."""
    scratch = Path(store.tiers.hot) / "scratch" / f"{kind}-{arguments.get('variant', 'x')}"
    scratch.mkdir(parents=True, exist_ok=True)
    return StepContext(
        step=kind,
        kind=kind,
        arguments=arguments,
        inputs=inputs,
        store=store,
        run_id="test",
        plan_hash="0" * 64,
        requested={},
        scratch=scratch,
    )


def conll(path: Path, sentences: int, seed: int) -> Path:
    """Write tagged sentences of 3 to 40 words, each with a name."""
    dice = random.Random(seed)
    lines = []
    for _ in range(sentences):
        words = [(w, "O") for w in dice.choices(FILLERS, k=dice.choice([3, 5, 8, 15, 40]))]
        kind = dice.choice(sorted(NAMES))
        name = dice.choice(NAMES[kind]).split()
        tags = [f"{'B' if i == 0 else 'I'}-{kind}" for i in range(len(name))]
        at = dice.randrange(len(words))
        words[at:at] = zip(name, tags, strict=True)
        lines += [f"{word}\t{tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


def csv(path: Path, rows: int, seed: int) -> Path:
    """Write texts of 2 to 30 words with one of three labels, told by a word."""
    dice = random.Random(seed)
    lines = ["text,label"]
    for _ in range(rows):
        label = dice.choice(["market", "walk", "dog"])
        words = [*dice.choices(FILLERS[:6], k=dice.choice([2, 6, 30])), label]
        lines.append(f"{' '.join(words)},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs(path: Path, groups: int, seed: int) -> Path:
    """Write query-document pairs, four to a query, one or two of them relevant."""
    dice = random.Random(seed)
    lines = ["query,document,relevance,group"]
    for group in range(groups):
        query = dice.choice(FILLERS)
        for item in range(4):
            words = dice.choices(FILLERS, k=dice.choice([3, 9]))
            relevant = int(item == 0 or dice.random() < 0.2)
            lines.append(f"{query},{' '.join(words)},{relevant},{group}")
    path.write_text("\n".join(lines) + "\n")
    return path


def prompts(path: Path, rows: int, seed: int) -> Path:
    """Write prompts with completions."""
    dice = random.Random(seed)
    made = [
        json.dumps(
            {
                "prompt": " ".join(dice.choices(FILLERS, k=5)),
                "completion": " ".join(dice.choices(FILLERS, k=dice.choice([2, 7]))),
            }
        )
        for _ in range(rows)
    ]
    path.write_text("\n".join(made) + "\n")
    return path


def image_folder(path: Path, each: int, seed: int) -> Path:
    """Write dark and bright images in a folder a class."""
    from PIL import Image

    dice = random.Random(seed)
    for label, base in (("bright", 180), ("dark", 20)):
        (path / label).mkdir(parents=True)
        for number in range(each):
            shade = base + dice.randrange(50)
            image = Image.new("RGB", (64, 64), (shade, shade, shade))
            image.save(path / label / f"{number}.png")
    return path


SOURCES: dict[str, Any] = {
    "token-classification": (conll, "conll", {"tokens": 0, "labels": -1}),
    "text-classification": (csv, "csv", {"text": "text", "label": "label"}),
    "text-pair-ranking": (
        pairs,
        "csv",
        {"text": "query", "text_pair": "document", "label": "relevance", "group": "group"},
    ),
    "causal-lm": (prompts, "jsonl", {"prompt": "prompt", "completion": "completion"}),
    "image-classification": (image_folder, "imagefolder", {}),
}


def make_dataset(
    store: Store, folder: Path, task: str, *, rows: int = 60, max_length: int = 64, texts: int = 0
) -> str:
    """Ingest a data set that this module writes, with so many texts without labels; returns its
    URI."""
    write, kind, columns = SOURCES[task]
    data = {
        split: {"uri": str(write(folder / f"{task}-{split}", rows, seed))}
        for seed, split in enumerate(("train", "validation", "test"))
    }
    if texts:
        more = write(folder / f"{task}-more.{kind}", texts, 3)
        data["unlabelled"] = {"uri": str(more)}
    arguments = {
        "task": task,
        "name": "tiny",
        "model": MINILM if task != "image-classification" else {"config": "vit-tiny"},
        "data": {**data, "format": kind, "columns": columns},
        "max_length": max_length,
    }
    return ingest.run(make_context(store, "ingest", arguments, {}))


CONFIGS = {"causal-lm": "llama-tiny", "image-classification": "vit-tiny"}


def make_model(
    store: Store,
    folder: Path,
    task: str,
    labels: list[str],
    *,
    config: str | None = None,
    max_length: int = 64,
    spread: float = 5.0,
) -> str:
    """Store a random model as `train` would; returns its URI.

    `spread` scales the head, so that random logits differ enough to have a clear best.
    """
    torch.manual_seed(0)
    reference = {"config": config or CONFIGS.get(task, "bert-tiny")}
    model = new_model(reference, task, labels).eval()
    for name in ("classifier", "score"):
        if hasattr(model, name) and hasattr(getattr(model, name), "weight"):
            getattr(model, name).weight.data *= spread
    folder.mkdir(parents=True, exist_ok=True)
    info = {
        "labels": labels,
        "task": task,
        "variant": "fp32",
        "base_model": reference["config"],
        "max_length": max_length,
        "precision": "fp32",
        "history": [],
        "best_metric": 0.0,
        "notes": [],
    }
    text = task != "image-classification"
    save_model(model, folder, tokenizer=resolve_tokenizer(MINILM) if text else None, info=info)
    return store.put_folder(folder, kind="model")
