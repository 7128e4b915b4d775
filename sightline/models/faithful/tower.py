"""The authors' dual encoder: a ViT and the encoder of a BART, a pooler each, and one map from pictures to text."""

# Axes: B items, L tokens, M width of the text side, N patches, S = 1 + N states, W width of a patch's state;
# C channels; after C, H and W are pixels.
from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel
from transformers.models.bart.modeling_bart import BartEncoder

from sightline.errors import SettingInvalid
from sightline.models.config import DecoderConfig, FaithfulTowerConfig
from sightline.models.faithful.patches import cut_patches
from sightline.models.generator import bart_config
from sightline.models.tower import Tower, capped_scale
from sightline.models.transforms import Preprocess

START_SCALE = math.log(1.0 / 0.07)
"""Start of the temperature's logarithm: 2.6593, an inverse temperature of 14.29 (ZRIGF, 1.3)."""

_HALF = (0.5, 0.5, 0.5)


class FaithfulTower(Tower):
    """BART's encoder and a ViT, each with a pooler (first token, linear, tanh); pictures pass v2t (ZRIGF, 1.1 and 1.2).

    The text pooler's normalised output is the text's vector; the picture's is
    that of the ViT's pooler through v2t, the same bias-free map that brings
    masked and retrieved patches to the text's width.
    """

    hides_by_token = True
    index_dtype = torch.uint8

    def __init__(
        self, config: FaithfulTowerConfig, *, text: BartEncoder, vit: ViTModel, preprocess: Preprocess
    ) -> None:
        super().__init__(preprocess=preprocess, context_length=config.context_length)
        self.text, self.vit = text, vit
        self.pad_id = config.text.pad_id
        self.text_pooler = nn.Linear(config.text.d_model, config.text.d_model)
        self.v2t = nn.Linear(config.vision_width, config.text.d_model, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(START_SCALE))
        self.grid = config.image_size // config.patch_size
        self.token_width, self.dimension = config.vision_width, config.text.d_model

    def encode_text(self, ids_BL: Tensor) -> Tensor:
        """Unit vectors [B, M]; padding is told by its id and changes nothing."""
        states_BLM, _ = self.read_text(ids_BL)
        return self.text_vectors(states_BLM)

    def read_text(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """(states [B, L, M], mask [B, L] True at tokens) of padded ids."""
        mask_BL = ids_BL != self.pad_id
        return self.text(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state, mask_BL

    def text_vectors(self, states_BLM: Tensor) -> Tensor:
        """Unit vectors [B, M] in float32 of texts whose states are known: the first token, pooled."""
        return F.normalize(torch.tanh(self.text_pooler(states_BLM[:, 0])).float(), dim=-1)

    def encode_image(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None = None, *, mask_token_W: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, M], patch states [B, N, W] without class token) of uint8 or normalised pixels."""
        states_BSW = self.read_image(pixels_BCHW, hidden_BN, mask_token_W=mask_token_W)
        return self.image_vectors(states_BSW), states_BSW[:, 1:]

    def read_image(
        self, pixels_BCHW: Tensor, hidden_BN: Tensor | None = None, *, mask_token_W: Tensor | None = None
    ) -> Tensor:
        """States [B, 1 + N, W], the class token first; where hidden_BN is True `mask_token_W` replaces the patch."""
        embeddings, dtype = self.vit.embeddings, self.v2t.weight.dtype
        x_BNW = embeddings.patch_embeddings(self.normalize(pixels_BCHW, dtype))
        if hidden_BN is not None:
            assert mask_token_W is not None, "a hidden patch needs a mask token"
            x_BNW = torch.where(hidden_BN.unsqueeze(-1), mask_token_W.to(dtype), x_BNW)
        x_BSW = torch.cat([embeddings.cls_token.expand(len(x_BNW), -1, -1), x_BNW], dim=1)
        x_BSW = embeddings.dropout(x_BSW + embeddings.position_embeddings)
        for layer in self.vit.layers:
            x_BSW = layer(x_BSW, None)
        return self.vit.layernorm(x_BSW)

    def image_vectors(self, states_BSW: Tensor) -> Tensor:
        """Unit vectors [B, M] in float32 of pictures whose states are known."""
        return F.normalize(self.v2t(self.vit.pooler(states_BSW)).float(), dim=-1)

    def longest_text(self, ids_BL: Tensor) -> Tensor:
        """The ids without the columns that are padding in every row."""
        if len(ids_BL) == 0:
            return ids_BL
        return ids_BL[:, : int((ids_BL != self.pad_id).sum(dim=1).max())]

    def logit_scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return capped_scale(self.log_scale)

    def index_tokens(self, pixels_BCHW: Tensor, *, grid: int) -> tuple[Tensor, Tensor]:
        """(unit vectors [B, M], the uint8 pixels cut into patches [B, N, 3 x side x side]).

        Stage 2 trains a ViT of its own, so states of this one would be foreign
        to the generator: it is given the picture itself. uint8 is exact in float16.
        """
        return self.encode_image(pixels_BCHW)[0], cut_patches(pixels_BCHW, side=self.patch_pixels)

    def index_token_shape(self, *, grid: int) -> tuple[int, int]:
        """(N, 3 x side x side), whatever the fusion pools to."""
        return self.num_patches, 3 * self.patch_pixels**2

    def describe_tokens(self, *, grid: int) -> str:
        """What an index token is."""
        return f"pixels {self.patch_pixels}x{self.patch_pixels}"

    def checkpoint_activations(self) -> None:
        """Keep the blocks' inputs alone for the backward pass and compute the rest again there."""
        for part in (self.text, self.vit):
            part.activation_checkpointing_enable({"use_reentrant": False})


def build_faithful_tower(config: FaithfulTowerConfig, *, text: BartEncoder | None = None) -> FaithfulTower:
    """A tower with random weights; it shares `text` with whoever gives it."""
    return FaithfulTower(
        config,
        text=BartEncoder(bart_config(config.text)) if text is None else text,
        vit=ViTModel(_vit_config(config)),
        preprocess=Preprocess(image_size=config.image_size, mean=_HALF, std=_HALF),
    )


def faithful_tower_of(folder: Path, *, text: DecoderConfig, context_length: int) -> FaithfulTowerConfig:
    """The description of a ViT checkpoint folder beside this text encoder. Raises SettingInvalid if it holds none."""
    return _described(_read_vit(folder).config, text=text, context_length=context_length)


def load_vit(tower: FaithfulTower, *, folder: Path) -> None:
    """Fill the tower's ViT from a checkpoint folder, and read pictures as its preprocessor does.

    Reads safetensors only. Raises SettingInvalid if the folder holds no ViT of
    the tower's sizes, or a weight is missing: no pooler is left random in silence.
    """
    vit = _read_vit(folder)
    try:
        tower.vit.load_state_dict(vit.state_dict())
    except RuntimeError as error:
        raise SettingInvalid(f"{folder}: not the ViT that the configuration describes: {error}") from error
    tower.set_preprocess(_read_preprocess(folder, image_size=vit.config.image_size))


def _read_vit(folder: Path) -> ViTModel:
    try:
        vit, info = ViTModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"{folder}: no ViT checkpoint with safetensors weights: {error}") from error
    missing = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if missing or vit.config.model_type != "vit":
        raise SettingInvalid(
            f"{folder}: {len(missing)} weights of ViT with pooler are missing, {missing[:3]} among them"
        )
    return vit


def _read_preprocess(folder: Path, *, image_size: int) -> Preprocess:
    """How the checkpoint's pictures were normalised; 0.5 and 0.5 if its folder does not say."""
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mean, std = (tuple(values.get(name, _HALF)) for name in ("image_mean", "image_std"))
    return Preprocess(image_size=image_size, mean=mean, std=std)


def _vit_config(config: FaithfulTowerConfig) -> ViTConfig:
    built = ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.vision_width,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        intermediate_size=config.vision_ffn,
        hidden_dropout_prob=config.vision_dropout,
    )
    built._attn_implementation = "sdpa"
    return built


def _described(vit: ViTConfig, *, text: DecoderConfig, context_length: int) -> FaithfulTowerConfig:
    return FaithfulTowerConfig(
        text=text,
        image_size=vit.image_size,
        patch_size=vit.patch_size,
        vision_width=vit.hidden_size,
        vision_layers=vit.num_hidden_layers,
        vision_heads=vit.num_attention_heads,
        vision_ffn=vit.intermediate_size,
        vision_dropout=float(vit.hidden_dropout_prob),
        context_length=context_length,
    )
