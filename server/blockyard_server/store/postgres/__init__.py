"""The store on PostgreSQL: any number of servers on one database (docs/adr/0006-postgresql-store.md).

`store` is the store itself, `session` and `writer_pool` what its writers say and on which connections, `evidence` what
Verify reads, `notifications` the LISTEN/NOTIFY client. What both databases share is in the package above.
"""
