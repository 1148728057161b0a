"""The store on SQLite: one data file, one server (docs/adr/0004-sqlite-store.md).

`store` is the store itself, `session` what its writer says, `evidence` what Verify reads, `data_file` the file as the
system sees it, `backup` a copy of it. What both databases share is in the package above.
"""
