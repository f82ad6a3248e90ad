"""What encoders made of a corpus: extracted once, kept in a store, read memory-mapped."""
