"""ansible-test calls this to install pip into an environment that it has created, from the pip that Python itself contains.

Without it ansible-test would download a script with the same purpose; it first looks for one of this name in its cache.
"""

from __future__ import annotations

import ensurepip
import subprocess
import sys

ensurepip.bootstrap()
packages = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *packages]))
