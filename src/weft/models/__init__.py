"""Models that know no devices: shapes, layers, and the names their weights have elsewhere."""

from weft.models.config import DecoderConfig, RopeScaling
from weft.models.decoder import Decoder

__all__ = ["Decoder", "DecoderConfig", "RopeScaling"]
