"""The Blockyard server."""
