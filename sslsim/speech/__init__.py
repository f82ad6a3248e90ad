"""Speech in: recordings, corpora, which of their utterances are used, and when in them what is said."""

from sslsim.speech.alignments import alignments_of
from sslsim.speech.corpus import Subset, read_corpus
from sslsim.speech.index import Segmentation

__all__ = ["Segmentation", "Subset", "alignments_of", "read_corpus"]
