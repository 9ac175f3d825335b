"""`/portal` and what is below it: what a user sees and does of what is the user's own, and the lead of a team of its
members'.

What is told is what a user is charged: what the house pays for it, to whom, and what is left over is not. Whose things
they are is looked up in the transaction that reads or changes them, so that another's are never there.
"""
