"""`--hypothesis-profile=long` fuzzes for hours; without it a target takes seconds."""

from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
settings.register_profile("short", max_examples=60, deadline=None, derandomize=True, suppress_health_check=_CHECKS)
settings.register_profile("long", max_examples=1_000_000, deadline=None, suppress_health_check=_CHECKS)
