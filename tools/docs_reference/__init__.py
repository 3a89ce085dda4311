"""The pages of the site that are made from the code: every command, route, public name and error message.

    python -m tools.docs_reference docs/reference

They are made whenever the site is built, and are in no repository: what is always made anew cannot be out of date.
"""
