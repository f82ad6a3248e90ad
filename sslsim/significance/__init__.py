"""What scores are worth: chance levels from mismatched utterances, intervals from blocks left out, random bases."""

from sslsim.significance.attention import attention_evidence
from sslsim.significance.evidence import Estimate, Evidence, Resampling
from sslsim.significance.run import evidence

__all__ = ["Estimate", "Evidence", "Resampling", "attention_evidence", "evidence"]
