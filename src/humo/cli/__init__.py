"""The command ``humo``: one file per subcommand."""
