"""Generate the site's reference pages from the code: every command, HTTP route, public name and error message.

    python -m tools.docs_reference docs/reference

The pages are generated whenever the site is built and are not stored in the repository, so they are never out of date.
"""
