"""What a study says: tables, verdicts, figures."""
