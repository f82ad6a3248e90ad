"""What a reader takes from scores and their evidence: tables in, smaller tables and claims out."""
