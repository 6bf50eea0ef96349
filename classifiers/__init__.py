"""What is in this text?

The lowest of three floors (proxy -> policies -> classifiers). A classifier takes messages and returns findings;
the panel asks many at once under deadlines and turns every fault into a Failure; the catalog makes them by kind.
Nothing here knows of HTTP, policies or metrics.
"""

import os

# ONNX Runtime reports to its makers unless it is told not to before it is imported: a guard tells nobody anything.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
