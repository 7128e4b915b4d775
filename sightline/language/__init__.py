"""Language models that others wrote and trained: how they are asked, and how far their answers are trusted."""
