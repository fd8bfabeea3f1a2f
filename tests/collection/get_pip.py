"""What ansible-test calls to bring pip into an environment that it has made, from the pip that Python itself carries.

ansible-test would otherwise download a script of the same use; it looks for one of this name in its cache first.
"""

from __future__ import annotations

import ensurepip
import subprocess
import sys

ensurepip.bootstrap()
packages = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *packages]))
