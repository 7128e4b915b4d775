"""A language model of one's own that writes edits: taught on some, asked for others by `trainer triplets`."""
