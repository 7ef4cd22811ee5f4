from hypothesis import HealthCheck, settings

# pytest tests/reliability/test_fuzz.py --hypothesis-profile=long
settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
