"""torch's tensors on the CPU, as their bytes. Tensors of other devices, sparse and quantised ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..large import Pieces
from ..stored import Buffer
from .registry import Codec, NoCodec


def _dump(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    if value.device.type != "cpu":
        raise NoCodec(f"a tensor on {value.device} cannot be encoded: give its `.cpu()`")
    if value.layout != torch.strided or value.is_quantized:
        raise NoCodec(
            "a tensor that is sparse or quantised cannot be encoded: give its `.to_dense()` or `.dequantize()`"
        )
    if value.grad_fn is not None:
        raise NoCodec("a tensor that is part of a graph cannot be encoded: give its `.detach()`")
    dense = value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    about: dict[str, Any] = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if value.requires_grad:
        about["requires_grad"] = True
    return about, Pieces((memoryview(dense.reshape(-1).view(torch.uint8).numpy()) if dense.numel() else b"",))


def _tensor(about: Mapping[str, Any], data: Buffer) -> Any:
    dtype = getattr(torch, about["dtype"])
    shape = tuple(about["shape"])
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    writable = bytearray(data) if memoryview(data).readonly else data
    return torch.frombuffer(writable, dtype=dtype).reshape(shape)


def _load(about: Mapping[str, Any], data: Buffer) -> Any:
    return _tensor(about, data).requires_grad_(about.get("requires_grad", False))


def _load_parameter(about: Mapping[str, Any], data: Buffer) -> Any:
    return torch.nn.Parameter(_tensor(about, data), requires_grad=about.get("requires_grad", False))


CODECS = (
    Codec("torch.Tensor", torch.Tensor, _dump, _load),
    Codec("torch.Parameter", torch.nn.Parameter, _dump, _load_parameter),
)
