"""Image folders (one folder a class), and the images themselves."""

from __future__ import annotations

import io
from pathlib import Path

from components.contract import DataError
from components.ingest.examples import Example, Examples

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF"]  # nothing that calls another program
SIDE_LIMIT_PIXELS = 256
# A 100-megapixel RGB image takes 300 MB decoded; real photographs stay below.
PIXEL_LIMIT = 100_000_000
FILE_LIMIT_BYTES = 256 << 20


def read_image_folder(root: Path, files: tuple[Path, ...]) -> Examples:
    """Yield path and class of each image below ``root/<class>/``; line is its number.

    Files at the top and files that are not named like images are left out.

    Raises:
        DataError: no class folder holds an image.
    """
    number = 0
    for path in files:
        parts = path.relative_to(root).parts
        if len(parts) < 2 or path.suffix.lower() not in SUFFIXES:
            continue
        number += 1
        yield Example(number, str(path), None, parts[0])
    if not number:
        raise DataError(
            f"{root}: no images in class folders", remedy="lay it out as <folder>/<class>/<image>"
        )


def encode_image(path: Path) -> bytes:
    """Return the image as PNG or JPEG bytes, at most `SIDE_LIMIT_PIXELS` a side.

    A small JPEG or PNG that needs no rotation keeps its bytes; all are decoded, so what does not
    decode is found here and not in the middle of training.

    Raises:
        DataError: does not decode, or is larger than `PIXEL_LIMIT`.
    """
    from PIL import Image, ImageOps

    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise DataError(f"{path}: image file of {path.stat().st_size:,} bytes")
    body = path.read_bytes()
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise DataError(
                    f"{path}: {width} x {height} pixels, over {PIXEL_LIMIT:,}",
                    remedy="scale it down first",
                )
            small = max(width, height) <= SIDE_LIMIT_PIXELS
            rotated = image.getexif().get(0x0112, 1) != 1
            plain = image.mode in ("RGB", "L") and image.format in ("JPEG", "PNG")
            # A JPEG decodes at a fraction of its size for free.
            image.draft("RGB", (2 * SIDE_LIMIT_PIXELS, 2 * SIDE_LIMIT_PIXELS))
            image.load()
            if small and plain and not rotated:
                return body
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((SIDE_LIMIT_PIXELS, SIDE_LIMIT_PIXELS), Image.Resampling.LANCZOS)
            target = io.BytesIO()
            upright.save(target, "PNG")
            return target.getvalue()
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on hostile files
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: image does not decode: {first}") from error
