"""What scores are worth: chance levels from mismatched utterances, intervals from blocks left out, random bases."""

from sslsim.significance.attention import attention_evidence
from sslsim.significance.evidence import Estimate, Evidence, Resampling
from sslsim.significance.jackknife import LEVEL, blocks_of, jackknife_error, jackknife_interval
from sslsim.significance.nulls import ALPHA, Mismatches, calibrated, p_value, threshold
from sslsim.significance.run import evidence

__all__ = [
    "ALPHA",
    "LEVEL",
    "Estimate",
    "Evidence",
    "Mismatches",
    "Resampling",
    "attention_evidence",
    "blocks_of",
    "calibrated",
    "evidence",
    "jackknife_error",
    "jackknife_interval",
    "p_value",
    "threshold",
]
