"""Images: kind ``hands``, a folder a class, drawings of hands that show zero to five fingers."""

from __future__ import annotations

import math
import random
from pathlib import Path

IMAGES = {"train": 150, "validation": 30, "test": 50}  # a class
CLASSES = 6
SIDE = 64
# Angle of each finger from upright, degrees; the thumb last.
ANGLES = (-28.0, -9.0, 9.0, 28.0, 68.0)


def write(split: str, seed: int, folder: Path) -> Path:
    """Draw the split below `folder` and return it."""
    generator = random.Random(f"hands-{split}-{seed}")
    for fingers in range(CLASSES):
        place = folder / str(fingers)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(IMAGES[split]):
            _draw(generator, fingers).save(place / f"{number:04d}.png")
    return folder


def _draw(generator: random.Random, fingers: int):  # noqa: ANN202 (PIL is imported late)
    from PIL import Image, ImageDraw, ImageFilter

    # A light wall, as on photographs of signs: of any colour, a thousand images teach no shapes.
    light = generator.randrange(190, 245)
    background = tuple(light + generator.randrange(-10, 11) for _ in range(3))
    skin = tuple(int(c * generator.uniform(0.75, 1.0)) for c in (224, 172, 130))
    big = SIDE * 2
    image = Image.new("RGB", (big, big), background)
    draw = ImageDraw.Draw(image)
    x, y = generator.uniform(0.42, 0.58) * big, generator.uniform(0.62, 0.72) * big
    palm = generator.uniform(0.15, 0.19) * big
    lean = generator.uniform(-20.0, 20.0)
    for place in generator.sample(range(len(ANGLES)), fingers):
        angle = math.radians(ANGLES[place] + lean + generator.uniform(-3.0, 3.0))
        length = palm * generator.uniform(2.0, 2.5) * (0.8 if place == 4 else 1.0)
        tip = (x + length * math.sin(angle), y - length * math.cos(angle))
        width = round(palm * generator.uniform(0.3, 0.38))
        draw.line([(x, y), tip], fill=skin, width=width)
        draw.ellipse([tip[0] - width / 2, tip[1] - width / 2, tip[0] + width / 2,
                      tip[1] + width / 2], fill=skin)  # fmt: skip
    draw.ellipse([x - palm, y - palm, x + palm, y + palm], fill=skin)
    wrist = [x - palm * 0.6, y, x + palm * 0.6, big]
    draw.rectangle(wrist, fill=skin)
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.2)))
    return image.resize((SIDE, SIDE))
