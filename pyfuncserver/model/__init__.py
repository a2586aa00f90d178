"""From an address to a model that answers: loading, runners, and the InferenceService."""
