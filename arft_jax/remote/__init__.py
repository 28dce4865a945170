"""A client of servers that speak OpenAI's chat completions API: retries, limits, costs, a log of every request."""
