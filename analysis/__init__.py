"""What a sweep means: effects, tests, verdicts, tables, figures, reports."""
