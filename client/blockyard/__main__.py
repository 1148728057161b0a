"""`python -m blockyard`: the command line, where its script is not on the PATH."""

import sys

from blockyard.cli import main

sys.exit(main())
