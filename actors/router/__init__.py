"""An HTTP router in front of engines: OpenAI-compatible, pass-through, for tests and small clusters."""
