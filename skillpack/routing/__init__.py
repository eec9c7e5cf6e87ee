"""Routing: which skills serve an input, or none of them; see docs/route.md.

`protocol` says what a router is, `opening` makes one, `features` asks the frozen base what it makes of a prompt,
`examples` attaches what is known of a skill's own prompts to the skill, and `methods` has one file per method.
"""
