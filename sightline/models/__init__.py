"""The only torch of the package: towers, the four ZRIGF modules, tokenizers, transforms, and how a release is read."""
