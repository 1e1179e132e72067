"""Pillow's images, as their pixels. An image that was opened from a file comes out as a plain `Image`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..values import Value
from .registry import Codec, NoCodec


def _dump(value: Any) -> tuple[Mapping[str, Any], Value]:
    if getattr(value, "n_frames", 1) > 1:
        raise NoCodec("an image of several frames cannot be encoded: give its frames, or the file")
    palette = value.getpalette(value.palette.mode) if value.palette is not None else None
    data = {
        "pixels": value.tobytes(),
        "palette": None if palette is None else [value.palette.mode, bytes(palette)],
        "transparency": value.info.get("transparency"),
    }
    return {"mode": value.mode, "size": list(value.size)}, data


def _load(about: Mapping[str, Any], data: Any) -> Any:
    width, height = about["size"]
    if len(data["pixels"]) * 8 < width * height:  # the smallest pixel has a bit
        raise ValueError("the pixels are too few")
    image = Image.frombytes(about["mode"], (width, height), data["pixels"])
    if data["palette"] is not None:
        mode, colours = data["palette"]
        image.putpalette(colours, mode)
    if data["transparency"] is not None:
        given = data["transparency"]
        image.info["transparency"] = tuple(given) if isinstance(given, list) else given
    return image


CODECS = (Codec("PIL.Image", Image.Image, _dump, _load, is_for_derived=True),)
