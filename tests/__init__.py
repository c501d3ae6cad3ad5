"""The tests, by distance from the truth: unit, conformance, integration, acceptance."""
