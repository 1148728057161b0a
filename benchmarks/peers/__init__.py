"""The peers that Blockyard is measured beside, one a file: how each is started, its claim, its release, its proof.

Each module has a context manager that starts the peer and gives what is measured as `Peer` values. It raises NotHere,
with the reason, where the machine has not what it needs. What a peer needs besides our own dependencies is installed
below build/peers, so that nothing of it gets into ours. `part.py` measures them in turns with the echo.
"""
