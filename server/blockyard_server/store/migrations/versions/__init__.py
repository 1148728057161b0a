"""One file for each version of the schema, written by hand."""
