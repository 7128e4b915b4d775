"""Experiments: many small runs that share what they can, and one report of what they show."""
