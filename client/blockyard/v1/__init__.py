"""Generated from `protos/blockyard/v1` by `make generate`; compared with a fresh generation in CI.

Nobody edits these modules, and users of the SDK never meet them.
"""
