"""Formats of captions, dialogues, triplets, questions and pools; decoding of pictures; the generated world."""
