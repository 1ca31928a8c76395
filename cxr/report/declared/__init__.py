"""What was declared before a study, and what was looked at afterwards: frozen plans, and how a study keeps to one.

The pages on time and cost of a large study (docs/plan.md) are about something else.
"""
