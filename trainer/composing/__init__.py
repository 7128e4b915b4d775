"""Composed retrieval's training: phi from captions, then adapter and prompts from edits, published in a release."""
