"""What the attacks found: the record, and its comparison, tables and plots."""
