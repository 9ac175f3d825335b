"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is no defect, so no example is too slow. In the gate each run plays the same examples: what it finds is
# what the change did. Elsewhere every run plays others.
settings.register_profile(
    "llmgate", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("llmgate")
