"""The Blockyard SDK."""
