"""A server with OpenAI's protocol on which every request chooses its skills; see docs/serving.md.

From the inside out: `slots` and `prefixes` keep keys and values of attention, `stepping` runs the model on rows that
have different skills, `scheduler` decides which rows run together, `shelf` knows which names mean which digests,
`protocol` and `answers` are the JSON that goes in and out, `routes` and `guards` are the HTTP, and `server` runs it.
"""
