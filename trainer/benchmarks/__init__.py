"""Composed image retrieval measured on CIRCO, CIRR, FashionIQ and GeneCIS, and on composed queries of your own.

`protocol` is the seam: what a benchmark asks, and what a model answers with. A file for each benchmark reads its own
annotation files and knows its own rules; `ranking` ranks, `run` joins all of it.
"""
