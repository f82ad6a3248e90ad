"""Speech in: recordings, corpora, which of their utterances are used, and when in them what is said."""

from sslsim.speech.alignments import alignments_file, alignments_of, read_alignments
from sslsim.speech.corpus import Corpus, Subset, Utterance, corpus_fingerprint, read_corpus
from sslsim.speech.index import Reader, Segmentation, index_of
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, AudioError, Recording, n_frames

__all__ = ["HOP", "SAMPLE_RATE", "WINDOW", "AudioError", "Corpus", "Reader", "Recording", "Segmentation", "Subset"]
__all__ += ["Utterance", "alignments_file", "alignments_of", "corpus_fingerprint", "index_of", "n_frames"]
__all__ += ["read_alignments", "read_corpus"]
