"""Masks -> complementary sets: which output channels share a row of weights."""

from __future__ import annotations

from hwgen.packing.pack import Assignment, pack_layer, pack_mask, pack_network

__all__ = ["Assignment", "pack_layer", "pack_mask", "pack_network"]
