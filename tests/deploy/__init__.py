"""What is in deploy/, checked by the tools that would take it: promtool and Prometheus, helm, Kubernetes' schemas,
hadolint, systemd; and the start command run as the image runs it. deploy/ray is on the path here as it is in pytest,
for `python -m tests.deploy.draw`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent / "deploy" / "ray"))
