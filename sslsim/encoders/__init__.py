"""Speech encoders: which checkpoints there are, and how one turns a waveform into hidden states and attention."""

from sslsim.encoders.encoder import Anatomy, Encoded, Encoder
from sslsim.encoders.files import checkpoint_fingerprint, locate
from sslsim.encoders.lineage import RELATIONS, SEPARATE, Lineage
from sslsim.encoders.lineup import LOG_MEL, Checkpoint, Lineup, find_lineup, read_lineup, select
from sslsim.encoders.load import DTYPES, load_encoder

__all__ = ["DTYPES", "LOG_MEL", "RELATIONS", "SEPARATE", "Anatomy", "Checkpoint", "Encoded", "Encoder", "Lineage"]
__all__ += ["Lineup", "checkpoint_fingerprint", "find_lineup", "load_encoder", "locate", "read_lineup", "select"]
