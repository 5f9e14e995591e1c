"""Views of images: what they may change, and that their loss is the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.contract import SpecError
from components.lib.augment import Augmentation, augmented
from components.lib.losses import cross_entropy_sum
from components.lib.tasks import make_task
from components.train.job import Job
from pipelines.spec import parse_spec

NOTHING = {"rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0, "brightness": 0.0, "mixup": 0.0,
           "smoothing": 0.0}  # fmt: skip
LABELS = torch.tensor([0, 2, 1, 2])
SPEC = """
name: a
task: {task}
model: {{config: vit-micro}}
data: {{train: {{uri: a}}}}
training: {{augment: {augment}}}
"""


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_no_change_is_the_image_and_its_label():
    views, shares = augmented(images(), LABELS, 3, Augmentation(**NOTHING))
    assert torch.allclose(views, images(), atol=1e-5)
    assert torch.equal(shares, torch.nn.functional.one_hot(LABELS, 3).float())


def test_a_mirror_image_is_mirrored_and_about_half_are():
    pixels = images().repeat(250, 1, 1, 1)
    torch.manual_seed(1)
    views, _ = augmented(pixels, LABELS.repeat(250), 3, Augmentation(**NOTHING, flip=True))
    mirrored = (views - pixels.flip(-1)).abs().amax((1, 2, 3)) < 1e-4
    kept = (views - pixels).abs().amax((1, 2, 3)) < 1e-4
    assert bool((mirrored ^ kept).all())
    assert 430 < int(mirrored.sum()) < 570


def test_a_shift_moves_by_no_more_than_asked():
    pixels = torch.full((200, 3, 40, 40), -1.0)
    pixels[:, :, 20, 20] = 1.0
    torch.manual_seed(2)
    views, _ = augmented(
        pixels, torch.zeros(200, dtype=torch.long), 3, Augmentation(**{**NOTHING, "shift": 0.1})
    )
    weight = (views[:, 0] + 1.0).clamp_min(0)
    rows = (weight.sum(2) * torch.arange(40)).sum(1) / weight.sum((1, 2))
    moved = (rows - 20.0).abs()
    assert float(moved.max()) <= 4.01
    assert float(moved.max()) > 3.0


def test_the_same_seed_is_the_same_view():
    def view(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        return augmented(images(), LABELS, 3, Augmentation())

    assert torch.equal(view(3)[0], view(3)[0])
    assert not torch.equal(view(3)[0], view(4)[0])
    assert torch.allclose(view(3)[1].sum(1), torch.ones(4))


@pytest.mark.parametrize("weights", [None, np.array([0.5, 1.0, 2.0])])
def test_shares_of_one_class_cost_what_the_class_does(weights):
    logits = torch.randn((4, 3), generator=torch.Generator().manual_seed(5))
    shares = torch.nn.functional.one_hot(LABELS, 3).float()
    assert float(cross_entropy_sum(logits, shares, weights)) == pytest.approx(
        float(cross_entropy_sum(logits, LABELS, weights)), rel=1e-6
    )


def test_only_training_sees_views():
    task = make_task("image-classification", ["a", "b"], augmentation=Augmentation())
    plain = make_task("image-classification", ["a", "b"])
    split = _split()
    rows = np.arange(4)
    torch.manual_seed(6)
    view = task.training_batch(split, rows, packed=False)
    assert view.targets.shape == (4, 2)
    before, after = (t.collate(split, rows, packed=False) for t in (plain, task))
    assert torch.equal(before.inputs["pixel_values"], after.inputs["pixel_values"])
    assert not torch.equal(view.inputs["pixel_values"], after.inputs["pixel_values"])
    same = plain.training_batch(split, rows, packed=False)
    assert torch.equal(same.targets, before.targets)


@pytest.mark.parametrize("augmentation", [None, Augmentation(**NOTHING)])
def test_a_lone_image_passes_batch_normalisation_and_counts_once(augmentation):
    from components.lib.modelling import new_model

    task = make_task("image-classification", ["a", "b"], augmentation=augmentation)
    batch = task.training_batch(_split(), np.arange(1), packed=False)
    torch.manual_seed(8)
    model = new_model({"config": "levit-micro"}, "image-classification", ["a", "b"])
    assert torch.isfinite(model.train()(**batch.inputs).logits).all()
    logits = torch.tensor([[0.3, -1.0]])
    once = cross_entropy_sum(logits, torch.tensor([0]), None)
    assert float(task.loss(logits.repeat(2, 1), batch)) == pytest.approx(float(once), rel=1e-6)


def test_the_spec_says_how_far_and_for_images_only():
    spec = parse_spec(
        SPEC.format(task="image-classification", augment="{shift: 0.2}"), source="s", folder=Path()
    )
    assert spec.document["training"]["augment"]["shift"] == 0.2
    job = Job.from_arguments(
        {"task": spec.task, "model": {}, "training": spec.training.model_dump()},
        dataset="", checkpoints="", output="",
    )  # fmt: skip
    assert Augmentation(**job.augment) == Augmentation(shift=0.2)
    with pytest.raises(SpecError, match=r"s:6: training.augment: views are of images"):
        parse_spec(SPEC.format(task="causal-lm", augment="{}"), source="s", folder=Path())
    with pytest.raises(SpecError, match=r"training.augment.shift"):
        parse_spec(
            SPEC.format(task="image-classification", augment="{shift: 2}"),
            source="s",
            folder=Path(),
        )


def _split():
    import io

    from PIL import Image

    from components.lib.dataset import Split

    def png(number: int) -> bytes:
        target = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(target, "PNG")
        return target.getvalue()

    empty = np.zeros(0, np.int32)
    return Split(
        name="train", rows=4, offsets=np.zeros(5, np.int64), input_ids=empty,
        lengths=np.zeros(4, np.int32), columns={"label": np.array([0, 1, 0, 1])},
        images=[png(n) for n in range(4)],
    )  # fmt: skip
