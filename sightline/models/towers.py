"""The dual encoder: an open_clip model as text tower, picture tower and source of picture tokens."""

# Axes: B items, L tokens, D embedding width, N patches, W token width, C channels; after C, H and W are pixels.
from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from sightline.errors import SettingInvalid
from sightline.models.config import TowerConfig
from sightline.models.fusion import pool_tokens
from sightline.models.pretrained import HF_TEXT_FOLDER, create_open_clip, model_config_of
from sightline.models.text_tower import CausalTextTower, causal_text_tower
from sightline.models.tower import Tower, capped_scale
from sightline.models.transforms import Preprocess


class DualEncoder(Tower):
    """An open_clip model: texts and pictures to unit vectors of one space, and pictures to tokens."""

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocess: Preprocess,
        context_length: int,
        open_clip_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(preprocess=preprocess, context_length=context_length)
        self.open_clip_config = open_clip_config
        # CoCa's captioning decoder has no part in either encoder: DDP would wait for its gradients.
        if hasattr(model, "text_decoder"):
            model.text_decoder = None
        self.model = model
        self._text = causal_text_tower(model)
        self._patches = patch_reader(model.visual)
        self.grid, self.token_width, self.dimension = self._measure()

    @property
    def hides_by_token(self) -> bool:
        """Whether hidden patches are replaced by a mask token; else their pixels are greyed."""
        return isinstance(self._patches, _VitPatches)

    @property
    def causal_text(self) -> CausalTextTower | None:
        """The text tower, if its tokens never see later ones and its vector is read at the end of text."""
        return self._text

    @property
    def cuts_texts(self) -> bool:
        """Whether a batch of texts may be cut to its longest end-of-text without changing a vector."""
        return self._text is not None

    def encode_text(self, ids_BL: Tensor) -> Tensor:
        """Unit vectors [B, D] in float32 of token ids; with a causal tower L may be any length up to the context's.

        Cutting columns behind every end-of-text changes nothing under the
        causal mask; see `longest_text`.
        """
        vectors_BD = self.model.encode_text(ids_BL) if self._text is None else self._text.encode(ids_BL)
        return F.normalize(vectors_BD.float(), dim=-1)

    def encode_image(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None = None, *, mask_token_W: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, D] in float32, tokens [B, N, W] without class token) of uint8 or normalised pixels.

        A transformer's tokens come from its last block but one. Where hidden_BN
        is True the patch is hidden: its embedding becomes `mask_token_W` before
        class and positional embeddings are added, or, for towers that are no
        open_clip VisionTransformer, its pixels become grey.
        """
        pixels_BCHW = self.normalize(pixels_BCHW, self.model.logit_scale.dtype)
        vectors_BD, tokens_BNW = self._patches(pixels_BCHW, hidden_BN, mask_token_W)
        return F.normalize(vectors_BD.float(), dim=-1), tokens_BNW

    def longest_text(self, ids_BL: Tensor) -> Tensor:
        """The ids without the columns behind the last end-of-text of the batch, if the tower allows it."""
        if self._text is None or ids_BL.shape[0] == 0:
            return ids_BL
        return ids_BL[:, : int(self._text.end_of_text(ids_BL).max()) + 1]

    def logit_scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return capped_scale(self.model.logit_scale)

    def index_tokens(self, pixels_BCHW: Tensor, *, grid: int) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, D], tokens [B, grid x grid, W]): the patch states, pooled."""
        vectors_BD, tokens_BNW = self.encode_image(pixels_BCHW)
        return vectors_BD, pool_tokens(tokens_BNW, grid=grid)

    def index_token_shape(self, *, grid: int) -> tuple[int, int]:
        """(grid x grid, W)."""
        return grid**2, self.token_width

    def describe_tokens(self, *, grid: int) -> str:
        """What an index token is."""
        return f"mean-pooled {grid}x{grid}"

    def save_text_config(self, folder: Path) -> None:
        """Write what a transformers text tower is made from, if this has one: a release then needs no hub to load."""
        if (config := getattr(getattr(self.model, "text", None), "config", None)) is not None:
            config.save_pretrained(folder / HF_TEXT_FOLDER)

    def checkpoint_activations(self) -> None:
        """Keep the blocks' inputs alone for the backward pass and compute the rest again there."""
        self.model.visual.set_grad_checkpointing(True)
        text = getattr(self.model, "text", None)
        if text is None:
            self.model.transformer.grad_checkpointing = True
        else:
            text.set_grad_checkpointing(True)

    @torch.no_grad()
    def _measure(self) -> tuple[int, int, int]:
        was_training = self.training
        self.eval()
        size = self.preprocess.image_size
        vectors_BD, tokens_BNW = self.encode_image(torch.zeros(1, 3, size, size))
        self.train(was_training)
        grid = round(tokens_BNW.shape[1] ** 0.5)
        if grid * grid != tokens_BNW.shape[1]:
            raise SettingInvalid(f"picture tower: got {tokens_BNW.shape[1]} patches, expected a square grid")
        return grid, tokens_BNW.shape[2], vectors_BD.shape[1]


def build_tower(config: TowerConfig, *, weights: str = "", source: str = "") -> DualEncoder:
    """A dual encoder, randomly initialised unless `weights` names an open_clip pretrained tag or a local weights file.

    An `hf-hub:` or `local-dir:` architecture brings weights along: any
    `weights`, say "own", loads them. `source` is what open_clip builds in place
    of the tag: a release brings its own description. Raises SettingInvalid for
    an unknown tag, and for weights that do not fill the model.
    """
    if config.tag:
        return _from_open_clip(source or config.tag, config=config, weights=weights)
    if weights:
        raise SettingInvalid(f"weights: got {weights!r}, but only a tower with an open_clip tag loads weights")
    model = CLIP(config.embed_dim, _vision_cfg(config), _text_cfg(config))
    return DualEncoder(model, preprocess=Preprocess(image_size=config.image_size), context_length=config.context_length)


def tower_config_of_tag(tag: str) -> TowerConfig:
    """The description of an open_clip architecture. Raises SettingInvalid if open_clip does not know it."""
    values = model_config_of(tag)
    vision, text = values["vision_cfg"], values["text_cfg"]
    size = vision["image_size"]
    return TowerConfig(
        tag=tag,
        vocab_size=text.get("vocab_size", CLIPTextCfg.vocab_size),
        embed_dim=values["embed_dim"],
        image_size=size if isinstance(size, int) else size[0],
        context_length=text.get("context_length", CLIPTextCfg.context_length),
        **_described(vision, text),
    )


def _described(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, int]:
    numbers = {
        "patch_size": vision.get("patch_size", 0),
        "vision_width": vision.get("width", 0),
        "vision_layers": vision.get("layers", 0),
        "vision_head_width": vision.get("head_width", 64),
        "text_width": text.get("width", 0),
        "text_layers": text.get("layers", 0),
        "text_heads": text.get("heads", 0),
    }
    return {name: value if isinstance(value, int) else 0 for name, value in numbers.items()}


def _from_open_clip(tag: str, *, config: TowerConfig, weights: str) -> DualEncoder:
    model, described = create_open_clip(tag, weights=weights)
    values = dict(model.visual.preprocess_cfg)
    return DualEncoder(
        model,
        preprocess=Preprocess.from_open_clip(values),
        context_length=config.context_length,
        open_clip_config={"model_cfg": described, "preprocess_cfg": values},
    )


def _vision_cfg(config: TowerConfig) -> CLIPVisionCfg:
    return CLIPVisionCfg(
        layers=config.vision_layers,
        width=config.vision_width,
        head_width=config.vision_head_width,
        patch_size=config.patch_size,
        image_size=config.image_size,
    )


def _text_cfg(config: TowerConfig) -> CLIPTextCfg:
    return CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
    )


class PatchReader(Protocol):
    """How one kind of picture tower gives a vector and patch tokens, with patches hidden."""

    def __call__(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None, mask_token_W: Tensor | None, /
    ) -> tuple[Tensor, Tensor]:
        """(vectors [B, D] not normalised, tokens [B, N, W])."""


def patch_reader(visual: nn.Module) -> PatchReader:
    """The reader for a picture tower of open_clip. Raises SettingInvalid for one of an unknown kind."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    if isinstance(visual, VisionTransformer):
        return _VitPatches(visual)
    if isinstance(visual, TimmModel):
        return _TimmPatches(visual)
    if isinstance(visual, ModifiedResNet):
        return _ResNetPatches(visual)
    raise SettingInvalid(f"picture tower: got {type(visual).__name__}, expected a transformer, timm or ResNet tower")


class _VitPatches:
    """open_clip's VisionTransformer, with the mask token between patch embedding and positions.

    Its tokens are those of the last block but one: contrastive training lets the
    last block forget what does not tell pictures apart (decision 21).
    """

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual = visual

    def __call__(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None, mask_token_W: Tensor | None, /
    ) -> tuple[Tensor, Tensor]:
        visual = self.visual
        x_BNW = visual.conv1(pixels_BCHW).flatten(2).transpose(1, 2)
        if hidden_BN is not None:
            assert mask_token_W is not None, "a hidden patch needs a mask token"
            x_BNW = torch.where(hidden_BN.unsqueeze(-1), mask_token_W.to(x_BNW.dtype), x_BNW)
        class_B1W = visual.class_embedding.to(x_BNW.dtype).expand(x_BNW.shape[0], 1, -1)
        x = torch.cat([class_B1W, x_BNW], dim=1) + visual.positional_embedding.to(x_BNW.dtype)
        x = visual.ln_pre(visual.patch_dropout(x))
        last, states = visual.transformer.forward_intermediates(x)
        before_last = states[-2] if len(states) > 1 else x
        pooled_BW, _ = visual._pool(last)
        tokens_BNW = self._normed(before_last[:, 1:])
        return (pooled_BW if visual.proj is None else pooled_BW @ visual.proj), tokens_BNW

    def _normed(self, states_BNW: Tensor) -> Tensor:
        """The states as open_clip normalises them; behind an attention pooler (CoCa) its norm is the pooler's own."""
        if self.visual.attn_pool is None:
            return self.visual.ln_post(states_BNW)
        return F.layer_norm(states_BNW, states_BNW.shape[-1:])


class _TimmPatches:
    """A timm trunk behind open_clip's adapter; patches are hidden in pixel space."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def __call__(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None, mask_token_W: Tensor | None, /
    ) -> tuple[Tensor, Tensor]:
        trunk = self.visual.trunk
        features = trunk.forward_features(grey_patches(pixels_BCHW, hidden_BN))
        vectors_BD = self.visual.head(trunk.forward_head(features))
        if features.ndim == 4:
            last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
            return vectors_BD, features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        return vectors_BD, features[:, getattr(trunk, "num_prefix_tokens", 0) :]


class _ResNetPatches:
    """CLIP's ResNet: the last feature map is the tokens; patches are hidden in pixel space."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def __call__(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None, mask_token_W: Tensor | None, /
    ) -> tuple[Tensor, Tensor]:
        visual = self.visual
        x = visual.stem(grey_patches(pixels_BCHW, hidden_BN))
        x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(x))))
        return visual.attnpool(x), x.flatten(2).transpose(1, 2)


def grey_patches(pixels_BCHW: Tensor, hidden_BN: Tensor | None) -> Tensor:
    """Normalised pixels with the hidden patches at zero, the mean colour."""
    if hidden_BN is None:
        return pixels_BCHW
    grid, size = round(hidden_BN.shape[1] ** 0.5), pixels_BCHW.shape[-1]
    seen = grid * (size // grid)
    hidden_B1GG = hidden_BN.reshape(-1, 1, grid, grid).to(pixels_BCHW.dtype)
    hidden_B1HW = F.interpolate(hidden_B1GG, size=(seen, seen), mode="nearest")
    # Patches of 14 leave 6 of 384 pixels at the right and below that no token stands for.
    return pixels_BCHW * (1.0 - F.pad(hidden_B1HW, (0, size - seen, 0, size - seen)))
