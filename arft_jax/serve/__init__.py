"""A trained agent behind the OpenAI chat completions API."""
