"""Speech in: recordings, corpora, and which of their utterances are used."""
