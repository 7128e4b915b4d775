"""The `faithful` variant of ZRIGF: the authors' ViT and BART as one dual encoder, without their defects."""
