"""The two stages of ZRIGF, each a source of batches and an objective."""
