"""Toytown: a small drawn world with captions, dialogues, composed queries, and facts that stand in pictures only."""

from sightline.data.toytown.benchmark_copies import write_benchmark_copies
from sightline.data.toytown.composed import write_composed
from sightline.data.toytown.draw import draw_scene
from sightline.data.toytown.writer import ToytownSummary, write_toytown

__all__ = ["ToytownSummary", "draw_scene", "write_benchmark_copies", "write_composed", "write_toytown"]
