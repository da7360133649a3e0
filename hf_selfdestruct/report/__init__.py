"""Results of the attacks: the record, and its comparison, tables and plots."""
