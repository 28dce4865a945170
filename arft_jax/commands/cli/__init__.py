"""The command lines, one a module: its flags, and the call of the function that does the work.

Nothing but what flags need is imported before they are checked, so that a wrong command costs no import of jax.
"""
