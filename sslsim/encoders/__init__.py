"""Speech encoders: which checkpoints there are, and how one turns a waveform into hidden states and attention."""

from sslsim.encoders.lineup import Checkpoint, read_lineup
from sslsim.encoders.load import load_encoder

__all__ = ["Checkpoint", "load_encoder", "read_lineup"]
