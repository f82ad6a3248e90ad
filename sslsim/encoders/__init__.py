"""Speech encoders: which checkpoints there are, and how one turns a waveform into hidden states and attention."""
